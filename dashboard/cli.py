"""``t2i-audit view``."""

from __future__ import annotations

import os
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
    help="Port; 0 takes a free one.",
)
@click.option("--address", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--name",
    "names",
    multiple=True,
    help="Name or address by which browsers know this machine; can be repeated.",
)
@click.option(
    "--token",
    is_flag=True,
    help="Ask visitors for a token: that of the environment's T2I_AUDIT_TOKEN, or a new one.",
)
@click.option(
    "--login",
    "people",
    multiple=True,
    metavar="WHO",
    help="Have visitors log in by OIDC (Streamlit's [auth] secrets) and let in WHO: a mail "
    "address or @domain; can be repeated.",
)
@click.option(
    "--unsafe-address",
    is_flag=True,
    help="Let in everybody who reaches another --address.",
)
@click.option(
    "--browser/--no-browser", default=True, show_default=True, help="Open the page in the browser."
)
def view(
    runs: tuple[Path, ...],
    port: int,
    address: str,
    names: tuple[str, ...],
    token: bool,
    people: tuple[str, ...],
    unsafe_address: bool,
    browser: bool,
) -> None:
    """Review runs in the dashboard, on this machine only unless --address says otherwise."""
    from secrets import token_urlsafe

    from .access import Access
    from .server import serve

    asked = (os.environ.get("T2I_AUDIT_TOKEN") or token_urlsafe(24)) if token else ""
    serve(runs, port, browser, Access(address, names, asked, people, unsafe_address))
