"""``t2i-audit tokenizer``: what a model's tokenizer does to each language."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from audit.errors import AuditError

if TYPE_CHECKING:
    from audit.tokenizer_report import Tokenizer


@click.command()
@click.argument("model", metavar="MODEL|FOLDER")
@click.option("--languages", help="Comma-separated codes; default: all 16 of our prompts.")
@click.option("--arms", help="Comma-separated arms; default: english,translation. 'all': all.")
@click.option("--prompts", type=click.Path(path_type=Path), help="A folder of parallel prompts.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def tokenizer(
    model: str, languages: str | None, arms: str | None, prompts: Path | None, as_json: bool
) -> None:
    """Report tokens, fertility against English, byte fallback and cut prompts per language.

    MODEL is phantom, a Hub name, a diffusers folder, the folder of a tokenizer, a .safetensors or
    .ckpt file of Stable Diffusion (it holds no tokenizer: CLIP's is taken, as for an audit), or
    clip. No weights are loaded and no image is made.
    """
    from audit.prompts import ARMS, parallel
    from audit.tokenizer_report import as_text, report

    chosen = ARMS if arms == "all" else _listed(arms, "--arms") or ("english", "translation")
    asked = list(parallel(prompts).prompts(_listed(languages, "--languages"), chosen))
    tables = {name: report(found, asked) for name, found in _tokenizers(model).items()}
    if as_json:
        document = {name: json.loads(t.to_json(orient="records")) for name, t in tables.items()}
        click.echo(json.dumps({"model": model, "tokenizers": document}, indent=1))
        return
    for number, (name, table) in enumerate(tables.items()):
        limit = table["limit"].iloc[0] if len(table) else None
        room = f"{limit:.0f} tokens fit" if limit == limit and limit else "no limit"
        click.echo(("\n" if number else "") + f"{name}: {room}\n\n{as_text(table)}")


def _listed(given: str | None, flag: str) -> list[str] | None:
    if given is None:
        return None
    names = [name.strip() for name in given.split(",") if name.strip()]
    if not names:
        raise AuditError(f"{flag} is empty; leave it away for the default")
    return names


def _tokenizers(model: str) -> dict[str, Tokenizer]:
    """Every tokenizer of a model, by the name of its folder."""
    from audit.tokenizer_report import clip, open_tokenizer

    if model == "clip":
        return {"clip": clip()}
    from audit.backends import PREFIXES
    from audit.backends.single_file import is_single_file

    if model.partition(":")[0] in PREFIXES:
        raise AuditError(f"'{model}' is not a model on this disk: its tokenizer is not known")
    if is_single_file(model):
        if not Path(model).expanduser().is_file():
            raise AuditError(f"no file {model}")
        return {"clip": clip()}
    folder = _folder(model)
    parts = [name for end in ("", "_2", "_3") if (folder / (name := f"tokenizer{end}")).is_dir()]
    return {name: open_tokenizer(str(folder / name)) for name in parts} or {
        folder.name: open_tokenizer(str(folder))
    }


def _folder(model: str) -> Path:
    """A folder as it is, weights there or not; else the folder that an audit would take."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    from audit.backends.checkpoints import resolve

    return resolve(model)
