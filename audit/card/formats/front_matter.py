"""The Hub's metadata of a model card: written by its own classes, and checked without a network."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from audit import yaml_files
from audit.card.wording import clean, metric, where

if TYPE_CHECKING:
    from audit.card.content import Card
    from audit.findings import Finding

_LISTS = ("tags", "language", "datasets", "metrics", "base_model", "license")
"""Fields that are a text or a list of texts; `tags` and `metrics` are lists."""
_TEXTS = ("library_name", "pipeline_tag", "license_name", "license_link", "model_name")
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:[-_][A-Za-z0-9]+)*|code|multilingual")


def front_matter(card: Card) -> str:
    """The metadata block, without its fences.

    ``model-index`` has one dataset for each probe, sampler and guidance: the Hub's classes group
    results by that and keep the arguments of the first, so only what all share stands there. There
    is no field for an interval or a slice; both stand in the metric's arguments, with the finding's
    id. Findings without an estimate are left out; the card names them.
    """
    from huggingface_hub import EvalResult, ModelCardData

    suite = clean(card.info.get("suite", ""))
    results = [
        EvalResult(
            task_type="text-to-image",
            dataset_type="t2i-audit",
            dataset_name=f"t2i-audit suite {suite}",
            dataset_config=f"{clean(finding.probe)}; {setting(card)}",
            dataset_args={"prompt_set_sha256": card.prompt_set},
            metric_type=clean(finding.metric),
            metric_name=f"{metric(finding.metric).label} ({clean(where(finding))})",
            metric_value=finding.estimate,
            metric_args=arguments(finding),
        )
        for finding in card.findings
        if finding.estimate is not None
    ]
    license = card.backend.get("license")
    stable = card.backend.get("backend") == "stable-diffusion"
    data = ModelCardData(
        license=clean(license) if license else None,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["text-to-image", *(["stable-diffusion"] if stable else []), "t2i-audit"],
        model_name=clean(card.model) if results else None,
        eval_results=results or None,
    )
    return str(data.to_yaml())


def setting(card: Card) -> str:
    """Sampler, steps and guidance of the run in one line."""
    sampler = dict(card.info.get("sampler") or {})
    named = sampler.get("scheduler", "model")
    scheduler = card.backend.get("scheduler", "model") if named == "model" else named
    parts = [f"sampler={scheduler}"]
    parts += [f"{key}={sampler[key]}" for key in ("steps", "guidance") if key in sampler]
    return clean(", ".join(parts))


def arguments(finding: Finding) -> dict[str, Any]:
    """What has no field of its own: the interval, n, the finding's id and verdict."""
    ci = {f"ci{100 * finding.level:g}": list(finding.ci)} if finding.ci else {}
    return ci | {"n": finding.n, "verdict": finding.verdict, "finding": clean(finding.id)}


# ---- the validator ---------------------------------------------------------------------------


def problems(readme: str, name: str = "README.md") -> list[str]:
    """What is wrong with the metadata of a card, as ``NAME:LINE: …``; empty: it is valid.

    The Hub's own validation asks its server. This one holds the block against the types of
    ``ModelCardData`` and ``EvalResult``, and against what writing it again would lose.
    """
    import yaml

    lines = readme.split("\n")
    if lines[0].strip() != "---":
        return [f"{name}:1: no front matter: the first line must be ---"]
    end = next((at for at, line in enumerate(lines) if at and line.rstrip() == "---"), None)
    if end is None:
        return [f"{name}:1: the front matter is not closed: it needs a second ---"]
    try:
        data = yaml.safe_load("\n".join(lines[1:end]))
    except yaml.MarkedYAMLError as error:
        line = (error.problem_mark.line if error.problem_mark else 0) + 2
        return [f"{name}:{line}: not YAML: {error.problem or error.context}"]
    except yaml_files.WRONG as error:
        return [f"{name}:1: not YAML: {' '.join(str(error).split())[:160]}"]
    if not isinstance(data, Mapping):
        return [f"{name}:2: the front matter is no mapping of keys to values"]
    found = [*_fields(data), *_model_index(data)]
    return [f"{name}:{_line(lines[1:end], key)}: {wrong}" for key, wrong in found]


def _line(lines: list[str], key: str) -> int:
    at = (n for n, line in enumerate(lines) if line.startswith((f"{key}:", f'"{key}":')))
    return next(at, 0) + 2


def _fields(data: Mapping[Any, Any]) -> list[tuple[str, str]]:
    found = []
    for key in _TEXTS:
        if data.get(key) is not None and not isinstance(data[key], str):
            found.append((key, f"{key} must be a text, not {data[key]!r}"[:200]))
    for key in _LISTS:
        value = data.get(key)
        listed = value if isinstance(value, list) else [value]
        if value is None:
            continue
        if key in ("tags", "metrics") and not isinstance(value, list):
            found.append((key, f"{key} must be a list of texts"))
        elif not all(isinstance(one, str) for one in listed):
            # `no`, the code of Norwegian, is a truth value in YAML.
            found.append((key, f"{key} holds what is no text; write it in quotes"))
        elif key == "language":
            found += [(key, f"language '{one}' is no ISO 639 code")
                      for one in map(str, listed) if not _LANGUAGE.fullmatch(one)]  # fmt: skip
    if data.get("license") == "other" and not data.get("license_name"):
        found.append(("license", "license 'other' needs license_name and license_link"))
    return found


def _model_index(data: Mapping[Any, Any]) -> list[tuple[str, str]]:
    """Whether the results survive being read and written by the Hub's classes."""
    index, key = data.get("model-index"), "model-index"
    if index is None:
        return []
    from huggingface_hub.repocard_data import (
        eval_results_to_model_index,
        model_index_to_eval_results,
    )

    if not isinstance(index, list) or len(index) != 1:
        return [(key, "model-index must be a list of one model: its classes read the first alone")]
    try:
        name, results = model_index_to_eval_results(index)
        again = eval_results_to_model_index(name, results)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        return [(key, f"model-index cannot be read: {what}")]
    found = []
    for result in results:
        value = result.metric_value
        if isinstance(value, float) and not math.isfinite(value):
            found.append((key, f"{result.metric_type}: {value} is no number that JSON knows"))
    if _counted(again) != _counted(index):
        what = "results of one dataset differ in name, arguments or source"
        found.append((key, f"{what}, and writing them again keeps the first alone"))
    return found


def _counted(index: list[Any]) -> Counter[str]:
    """Every metric with the whole of what stands around it, however it is grouped."""
    return Counter(
        repr((_sorted(result.get("task")), _sorted(result.get("dataset")),
              _sorted(result.get("source")), _sorted(one)))
        for result in index[0]["results"]
        for one in result["metrics"]
    )  # fmt: skip


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        kept = {str(k): _sorted(v) for k, v in value.items() if v is not None}
        return sorted(kept.items())
    return [_sorted(one) for one in value] if isinstance(value, list) else value
