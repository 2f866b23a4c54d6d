"""``t2i-audit calibrate``: how well the audit finds what is known to be there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from audit.errors import GateFailed


@click.command()
@click.option("--quick", is_flag=True, help="Few images and sub-audits, for CI.")
@click.option("--probes", help="Comma-separated; default: all that have known answers.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The folder of the pools and the result; default: runs/calibration, -quick.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def calibrate(quick: bool, probes: str | None, out: Path | None, as_json: bool) -> None:
    """Audit the phantoms many times, where every answer is known.

    A pool of images is made once, read exactly, and sub-audits are drawn from it, with effects of
    known size planted: coverage of the intervals, power, false alarms, and the error of every
    detector. The same command goes on where it stopped. Exit code 3 where the coverage leaves 90 to
    99%, a planted effect is missed, or a known answer is wrong.
    """
    from audit.calibration import calibrate as run
    from audit.calibration.pool import FULL, QUICK
    from audit.calibration.result import PAGE, RESULT

    names = [name.strip() for name in (probes or "").split(",") if name.strip()]
    if probes is not None and not names:
        raise click.UsageError("--probes is empty; leave it away for all")
    size = QUICK if quick else FULL
    folder = out or Path("runs") / ("calibration-quick" if quick else "calibration")
    result = run.calibrate(folder, size, names)
    if as_json:
        click.echo(json.dumps(result, indent=1))
    else:
        _say(result)
        click.echo(f"result           {folder / RESULT}")
        click.echo(f"page             {folder / PAGE}")
    if not result["passed"]:
        raise GateFailed(
            f"{len(result['failures'])} known answers were not found: "
            + "; ".join(result["failures"])
        )


def _say(result: dict[str, Any]) -> None:
    for probe, row in {**result["probes"], "all": result["overall"]}.items():
        low, high = row["coverage_ci"]
        line = f"{probe:<16} covered {row['coverage']:.1%} of {row['intervals']:,}"
        line += f" ({low:.1%} to {high:.1%})"
        if row["planted"]:
            line += f", found {row['power']:.1%} of {row['planted']:,}"
        if row["absent"]:
            line += f", accused wrongly {row['false_alarms']:.1%} of {row['absent']:,}"
        click.echo(line)
    held = sum(check["passed"] for check in result["checks"])
    click.echo(f"{'known answers':<16} {held} of {len(result['checks'])} right")
