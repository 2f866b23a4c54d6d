"""``t2i-audit compare``: what changed between two audits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from audit.errors import AuditError, GateFailed


@click.command("compare")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option(
    "--margin",
    "margins",
    multiple=True,
    metavar="[NAME=]NUMBER",
    help="Change that does not count: of all, or of a metric. Default: each finding's own margin.",
)
@click.option(
    "--gate",
    "gates",
    multiple=True,
    metavar="GATE",
    help="'change(probe.metric) <= 0.1', 'abs(change(…)) <= 0.1', or 'probe.metric <= 0.1'.",
)
@click.option("--html", type=click.Path(path_type=Path), help="Write one page, for any browser.")
@click.option("--all", "everything", is_flag=True, help="Print the changes that are not shown too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def compare(
    first: Path,
    second: Path,
    margins: tuple[str, ...],
    gates: tuple[str, ...],
    html: Path | None,
    everything: bool,
    as_json: bool,
) -> None:
    """Compare the findings of the runs FIRST and SECOND: before and after.

    Findings are matched by probe, metric and slice. Where both runs hold the same prompts, the
    difference is paired by prompt and, where these agree, by seed. Gates on a change come from
    --gate and from the spec of SECOND; when one does not hold, the exit code is 3.
    """
    from audit import compare as comparing
    from audit import gates as gating
    from audit.atomic import replace
    from audit.compare import report

    asked = [gating.parse(gate) for gate in gates]
    before, after = comparing.Opened(first), comparing.Opened(second)
    compared = comparing.compare(before, after, _margins(margins))
    declared = (after.info.get("spec") or {}).get("gates") or []
    texts = [gate for gate in map(str, declared) if gating.parse(gate).of != "estimate"]
    texts = list(dict.fromkeys([*texts, *(gate.text for gate in asked)]))
    results = gating.evaluate(texts, after.findings)
    results += gating.evaluate_changes(texts, [one.as_finding() for one in compared.changes])
    if html is not None:
        from audit.compare.page import page

        replace(html, page(compared, results).encode("utf-8", "replace"))
    if as_json:
        document: dict[str, Any] = report.document(compared, results)
        click.echo(json.dumps(document, indent=1, allow_nan=False))
    else:
        for line in report.lines(compared, results, everything):
            click.echo(line)
        if html is not None:
            click.echo(f"page    {html}")
    if failed := gating.unmet(results):
        raise GateFailed(f"{len(failed)} of {len(results)} gates do not hold: {'; '.join(failed)}")


def _margins(given: tuple[str, ...]) -> dict[str, float]:
    """``NUMBER`` or ``NAME=NUMBER``; a finding's id may hold ``=`` itself.

    >>> _margins(("0.05", "demographics.share_glasses[subject=chef]=0.2"))
    {'': 0.05, 'demographics.share_glasses[subject=chef]': 0.2}
    """
    margins = {}
    for text in given:
        name, _, number = text.rpartition("=")
        try:
            margins[name.strip()] = float(number)
        except ValueError:
            raise AuditError(
                f"--margin {text}: say NUMBER or NAME=NUMBER, such as copy_rate=0.02"
            ) from None
    return margins
