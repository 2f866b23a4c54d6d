"""``t2i-audit view``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument(
    "runs",
    nargs=-1,
    required=True,
    metavar="RUN...",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
@click.option(
    "--port",
    default=8501,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port on 127.0.0.1; 0 takes a free one.",
)
@click.option(
    "--browser/--no-browser", default=True, show_default=True, help="Open the page in the browser."
)
def view(runs: tuple[Path, ...], port: int, browser: bool) -> None:
    """Review runs in the dashboard, on this machine only."""
    from .server import serve

    serve(runs, port, browser)
