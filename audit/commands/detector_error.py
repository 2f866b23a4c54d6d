"""``t2i-audit detector-error``: how often an instrument is wrong, measured once for many audits."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audit.errors import AuditError

if TYPE_CHECKING:
    from audit.detector_error import Confusion
    from audit.label_files import Labels
    from audit.store import Run
    from audit.suites import Suite


@click.command("detector-error")
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--truth", required=True, help="LABELS.csv, or a detector that is trusted: reader.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The file to write.")
@click.option("--probe", default="demographics", help="Whose images of RUN.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def detector_error(run_folder: Path, truth: str, out: Path, probe: str, as_json: bool) -> None:
    """Count what the instruments of RUN say against the truth, by attribute and subject.

    LABELS.csv has a column image (SHA-256) or request, one for each attribute with the suite's
    labels, and author where several people labelled. Later audits of the same model correct their
    shares by it: probes: {demographics: {detector_error: FILE}} in the spec. Label images of other
    seeds than those that are audited: t2i-audit run MODEL --seed 500000.
    """
    from audit.detector_error import DetectorError, measure
    from audit.evidence import table
    from audit.label_files import read_labels
    from audit.reopened import suite_of
    from audit.store import Run

    run = Run.open(run_folder)
    suite = suite_of(run, outside=True)
    frame = table(run, probe, without=["embedding"])
    if frame.empty:
        raise AuditError(f"{run_folder} holds no images of the probe {probe}")
    attributes = suite.section("attributes")
    source: Labels | str = truth
    if truth.endswith(".csv"):
        names = {name: [str(x) for x in about["labels"]] for name, about in attributes.items()}
        source = read_labels(Path(truth), names)
    bands = suite.section(probe).get("undetermined") or {}
    counts = measure(run, frame, attributes, source, bands)
    about = _about(run, suite, truth, source)
    DetectorError(about, counts).save(out)
    document = {"file": str(out), **about, "attributes": _summary(counts)}
    if as_json:
        click.echo(json.dumps(document, indent=1))
        return
    for attribute, agreed in (about.get("agreement") or {}).items():
        click.echo(f"{attribute}: {agreed}{'' if attribute in counts else '; left out'}")
    for attribute, found in counts.items():
        for instrument, confusion in found.items():
            _say(attribute, instrument, confusion)
    click.echo(f"written: {out}")


def _about(run: Run, suite: Suite, truth: str, source: Labels | str) -> dict[str, Any]:
    info = run.info
    about: dict[str, Any] = {
        "model": info.get("model"),
        "weights": (info.get("backend") or {}).get("weights"),
        "suite": suite.name,
        "sampler": info.get("sampler"),
        "seed": (info.get("spec") or {}).get("seed"),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "truth": truth if isinstance(source, str) else source.name,
    }
    if isinstance(source, str):
        described = run.read_json("detectors.json").get(source, {})
        about["truth_weights"] = described.get("weights")
    else:
        about["agreement"] = {name: str(found) for name, found in source.agreement.items()}
    return about


def _say(attribute: str, instrument: str, confusion: Confusion) -> None:
    for label, row in zip(confusion.labels, confusion.total, strict=True):
        said = [*confusion.labels, "undetermined"]
        counts = ", ".join(f"{int(n)} {name}" for name, n in zip(said, row, strict=True) if n)
        click.echo(f"{attribute}, {instrument}: of {int(row.sum())} {label}: {counts or 'none'}")


def _summary(counts: dict[str, dict[str, Confusion]]) -> dict[str, Any]:
    return {
        attribute: {
            instrument: {
                "n": found.n,
                "subjects": len(found.subjects),
                "labels": list(found.labels),
                "counts": found.total.astype(int).tolist(),
            }
            for instrument, found in by_instrument.items()
        }
        for attribute, by_instrument in counts.items()
    }
