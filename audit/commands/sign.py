"""``t2i-audit sign``: vouch for a run with a key."""

from __future__ import annotations

import os
from pathlib import Path

import click


@click.command("sign")
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--key",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Your Ed25519 key, in PEM or OpenSSH's form; a password in T2I_AUDIT_KEY_PASSWORD.",
)
def sign(run_folder: Path, key: Path) -> None:
    """Sign the files of RUN as they are, after checking that they hold.

    The signature is an in-toto statement in a DSSE envelope, a line of signatures.intoto.jsonl;
    t2i-audit verify RUN --key PUBLIC checks it. Whatever is written into RUN later needs another.
    """
    from audit import signing
    from audit.errors import Incomplete
    from audit.store import Run
    from audit.verify import problems

    run = Run.open(run_folder)
    password = os.environ.get("T2I_AUDIT_KEY_PASSWORD")
    private = signing.private_key(key, password.encode() if password else None)
    with run.lock():
        found, checked = problems(run)
        for line in found:
            click.echo(line, err=True)
        if found:
            raise Incomplete(f"not signed: {len(found)} things do not hold, of {checked} files")
        made = signing.sign(run, private)
    click.echo(f"{len(made.files)} files signed by the key {made.keyid}")
    click.echo(str(run.path / signing.FILE))
