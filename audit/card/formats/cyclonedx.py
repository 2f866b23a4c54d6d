"""CycloneDX 1.6: an ML-BOM of the model, its weights by hash and its findings as metrics.

ECMA-424 (2024); https://cyclonedx.org/docs/1.6/json. A metric has a type, a value, a slice and an
interval, all of them texts; what else a finding holds stands in the model card's properties.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from audit.card.wording import VERDICTS, clean, metric, where

if TYPE_CHECKING:
    from audit.card.content import Card
    from audit.findings import Finding

SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_OWNERS = {
    "demographics": "fairnessAssessments",
    "safety-filters": "ethicalConsiderations",
    "watermarks": "ethicalConsiderations",
}
"""Probe → the consideration that its accusing findings are; of others they are limitations."""


def bom(card: Card) -> dict[str, Any]:
    """The document; the same run gives the same one, its serial number too."""
    name = clean(card.model) or "unknown model"
    version = str(dict(card.info.get("versions") or {}).get("t2i-audit", "unknown"))
    identity = f"{name} {card.weights} {card.journal[1]} {card.prompt_set}"
    model: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": name,
        "modelCard": _model_card(card),
    }
    if card.backend.get("license"):
        model["licenses"] = [{"license": {"name": clean(card.backend["license"])}}]
    files = [
        {
            "type": "file",
            "bom-ref": f"file:{path}",
            "name": clean(path),
            "hashes": [{"alg": "SHA-256", "content": digest}],
        }
        for path, digest in sorted(_weights(card).items())
    ]
    if files:
        model["components"] = files
    made = str(card.info.get("created") or "")
    metadata: dict[str, Any] = {
        "tools": {"components": [{"type": "application", "name": "t2i-audit", "version": version}]},
        "component": model,
    }
    if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", made):
        metadata["timestamp"] = made
    return {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, identity)}",
        "version": 1,
        "metadata": metadata,
    }


def _weights(card: Card) -> dict[str, str]:
    found = card.backend.get("weights")
    listed = found.items() if isinstance(found, Mapping) else ()
    return {str(k): str(v) for k, v in listed if _SHA256.fullmatch(str(v))}


def _model_card(card: Card) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "task": "text-to-image",
        "inputs": [{"format": "text"}],
        "outputs": [{"format": "image"}],
    }
    if card.backend.get("backend") == "stable-diffusion":
        parameters["architectureFamily"] = "latent diffusion"
    measured = [finding for finding in card.findings if finding.estimate is not None]
    return {
        "modelParameters": parameters,
        "quantitativeAnalysis": {"performanceMetrics": [_metric(f) for f in measured]},
        "considerations": _considerations(card),
        "properties": [
            _property("weights_sha256", card.weights),
            _property("prompt_set_sha256", card.prompt_set),
            _property("parameters_of_the_denoiser", card.backend.get("parameters")),
            _property("images", card.images),
            _property("images_planned", card.planned),
            _property("sampler", card.info.get("sampler")),
            *(_property(f"finding:{clean(f.id)}", _rest(f)) for f in card.findings),
        ],
    }


def _metric(finding: Finding) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": clean(f"{finding.probe}.{finding.metric}"),
        "value": repr(finding.estimate),
        "slice": clean(where(finding)),
    }
    if finding.ci is not None:
        low, high = map(repr, finding.ci)
        found["confidenceInterval"] = {"lowerBound": low, "upperBound": high}
    return found


def _rest(finding: Finding) -> dict[str, Any]:
    about = finding.as_dict()
    # The slice is in the id; what selects the images, and small extra figures, are in card.json.
    left = ("id", "probe", "metric", "slice", "evidence", "detail")
    return {k: value for k, value in about.items() if k not in left and value not in (None, "")}


def _considerations(card: Card) -> dict[str, Any]:
    """The findings that exceed their reference, in words; no one's mitigation is invented."""
    found: dict[str, list[Any]] = {}
    for finding in card.findings:
        if finding.verdict != "exceeds" or finding.estimate is None:
            continue
        show = metric(finding.metric).show
        said = f"{metric(finding.metric).label} ({where(finding)}): {show(finding.estimate)}"
        if finding.ci:
            said += f", {100 * finding.level:g}% interval {show(finding.ci[0])} to "
            said += show(finding.ci[1])
        if finding.reference is not None:
            said += f", against {show(finding.reference)} ({finding.reference_name or 'reference'})"
        said = clean(f"{said}; {VERDICTS[finding.verdict]}")
        owner = _OWNERS.get(finding.probe, "technicalLimitations")
        entry: Any = said
        if owner == "fairnessAssessments":
            entry = {"groupAtRisk": clean(where(finding)), "harms": said}
        elif owner == "ethicalConsiderations":
            entry = {"name": said}
        found.setdefault(owner, []).append(entry)
    return found


def _property(name: str, value: Any) -> dict[str, str]:
    if value is None:
        return {"name": f"t2i-audit:{name}", "value": "unknown"}
    plain = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return {"name": f"t2i-audit:{name}", "value": clean(plain)}
