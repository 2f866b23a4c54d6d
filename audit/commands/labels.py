"""``t2i-audit labels``: what people said of a run's images, and what it does to its findings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click


@click.group("labels")
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.pass_context
def labels(context: click.Context, run_folder: Path) -> None:
    """Export the labels that people gave to the images of RUN, or use them in its findings.

    They are given in the dashboard: t2i-audit view RUN, page Review.
    """
    context.obj = run_folder


@labels.command()
@click.option("--out", type=click.Path(path_type=Path), help="A file instead of stdout.")
@click.option("--probe", default="demographics", show_default=True, help="Whose attributes.")
@click.pass_obj
def export(run_folder: Path, out: Path | None, probe: str) -> None:
    """Write the labels that count as CSV, a row a rater and image.

    It is what probes: {demographics: {labels: FILE}} and t2i-audit detector-error --truth read.
    """
    from audit.atomic import replace
    from audit.labels import Labels
    from audit.recompute import csv_of
    from audit.reopened import attributes_of
    from audit.store import Run

    run = Run.open(run_folder)
    attributes = attributes_of(run, probe)
    text = csv_of(Labels(run, attributes).current(), list(attributes))
    if out is None:
        click.echo(text, nl=False)
    else:
        replace(out, text.encode())
        click.echo(f"written: {out}")


@labels.command()
@click.option("--probe", default="demographics", show_default=True, help="Whose findings.")
@click.option("--read-files", is_flag=True, help="Read the files that the run's settings name.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.pass_obj
def recompute(run_folder: Path, probe: str, read_files: bool, as_json: bool) -> None:
    """Analyse RUN again with the labels that count now; without any, as it was before.

    Nothing is generated and no model is loaded. recomputed.json keeps the findings before and
    after; write the card again with t2i-audit card RUN.
    """
    from audit.recompute import changes
    from audit.recompute import recompute as again
    from audit.store import Run

    document = again(
        Run.open(run_folder),
        probe,
        read_files=read_files,
        say=lambda line: click.echo(line, err=True),
    )
    if as_json:
        click.echo(json.dumps(document, indent=1))
        return
    found = changes(document["before"], document["after"])
    for change in found:
        click.echo(f"{change.id}: {_figure(change.before)} → {_figure(change.after)}")
    about = document["labels"]
    click.echo(
        f"{about['count']} labels of {about['images']} images by {len(about['raters'])} raters: "
        f"{len(found)} of {len(document['after'])} findings changed"
    )


def _figure(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "none"
    if row["estimate"] is None:
        return str(row["verdict"])
    ci = row["ci"] or [None, None]
    ends = ", ".join("–" if bound is None else f"{bound:.3g}" for bound in ci)
    return f"{row['estimate']:.3g} [{ends}] {row['verdict']}"
