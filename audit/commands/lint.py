"""``t2i-audit lint``: what is wrong with prompts, before images of them are paid for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audit.errors import AuditError, Incomplete

if TYPE_CHECKING:
    from audit.prompts import Problem, Prompt

TABLES = (".csv", ".tsv")
SUITES = (".yaml", ".yml")


@click.command()
@click.argument("what", metavar="[FILE|FOLDER|SUITE]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def lint(what: tuple[str, ...], as_json: bool) -> None:
    """Check prompts in many languages: collisions, missing entries, homoglyphs, forms of text.

    FOLDER holds en.csv and CODE.csv as datasets/prompts/languages does. FILE is a table with the
    columns id, language and text (.csv, .tsv), or a suite (.yaml). SUITE is the name of a shipped
    suite, or of an outside one with its file: magbig:FOLDER, crossmodal-3600:FILE,
    parti-prompts:FILE, i2p:FILE, coco-captions:FILE. Without any, the shipped prompts are checked.

    Exit code 1: something is wrong; each line says where.
    """
    from audit.prompts import lint as check

    found: list[Problem] = []
    count = 0
    for name in what or ("",):
        prompts, options = _read(name)
        count += len(prompts)
        found += check(prompts, **options)
    if as_json:
        problems = [dataclasses.asdict(problem) for problem in found]
        click.echo(json.dumps({"prompts": count, "problems": problems}, indent=1))
    else:
        for problem in found:
            click.echo(str(problem))
    if found:
        raise Incomplete(f"{len(found)} problems in {count} prompts")
    if not as_json:
        click.echo(f"{count} prompts, no problem")


def _read(name: str) -> tuple[list[Prompt], dict[str, Any]]:
    """The prompts of one argument, and what the lint may ask of them."""
    from audit import suites
    from audit.outside_suites import LOADERS, load
    from audit.prompts import ARMS, parallel

    path = Path(name).expanduser()
    if not name or path.is_dir():
        shipped = parallel(path if name else None)
        return list(shipped.prompts(arms=ARMS)), {"gender": True}
    suite, colon, file = name.partition(":")
    if colon and suite in LOADERS:
        return load(suite, Path(file).expanduser()), {"complete": suite == "magbig"}
    if path.suffix.lower() in TABLES:
        return list(_table(path)), {}
    if path.suffix.lower() in SUITES or name in suites.names():
        return _suite(name), {}
    raise AuditError(
        f"no prompts '{name}': not a folder, a table ({', '.join(TABLES)}), a suite "
        f"({', '.join(suites.names())}), or one of {', '.join(f'{n}:FILE' for n in LOADERS)}"
    )


def _table(path: Path) -> Iterator[Prompt]:
    """Columns id, language and text; arm, gender and people where there are any."""
    from audit.prompts import Prompt
    from audit.prompts.reading import rows

    columns = ["id", "language", "text"]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    read = list(rows(path, columns, delimiter=delimiter, filled=["id", "language"]))
    english = {row["id"]: row["text"] for _, row in read if row["language"] == "en"}
    for where, row in read:
        tags = {name: row[name] for name in ("arm", "gender", "people") if row.get(name)}
        text = english.get(row["id"], "")
        yield Prompt(row["id"], row["text"], row["language"], text, tags=tags, where=where)


def _suite(name: str) -> list[Prompt]:
    """The prompts of a suite's section ``languages``, those written out with their line."""
    from audit import suites
    from audit.prompts.asked import prompts_of, section_of

    suite = suites.load(name)
    section = section_of(suite.section("languages"), {}, suite.name)
    path = Path(name)
    if path.suffix.lower() not in SUITES:
        path = suites.datasets() / f"suites/{name}.yaml"
    lines = _lines(path)
    return [
        dataclasses.replace(
            prompt, where=prompt.where or f"{path}:{lines.get((prompt.id, prompt.language), 1)}"
        )
        for prompt in prompts_of(section)
    ]


def _lines(path: Path) -> dict[tuple[str, str], int]:
    """Key and language → line of the text, of ``languages: prompts`` in a suite's file."""
    import yaml

    node: Any = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    for name in ("languages", "prompts"):
        inner = {key.value: value for key, value in node.value}
        node = inner.get(name)
        if not isinstance(node, yaml.MappingNode):
            return {}
    return {
        (key.value, language.value): text.start_mark.line + 1
        for key, texts in node.value
        for language, text in texts.value
    }
