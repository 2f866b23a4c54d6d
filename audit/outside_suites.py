"""Prompts of outside suites, read from the files their authors publish.

None is shipped: a user brings the files. Each loader yields :class:`audit.prompts.Prompt`, whose
``id`` pairs the languages, and every error names the file and the line, never the prompt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .errors import AuditError
from .plugins import did_you_mean
from .prompts import Prompt
from .prompts.reading import rows, text_of

Tags = dict[str, str | int | float | bool]

_MAGBIG_LANGUAGES = {
    "english": "en", "german": "de", "french": "fr", "spanish": "es", "italian": "it",
    "russian": "ru", "arabic": "ar", "chinese": "zh", "japanese": "ja", "korean": "ko",
}  # fmt: skip
_MAGBIG_GROUPS = {"occ": "occupation", "adj": "adjective"}
_MAGBIG_INDIRECT = ("indirect:gender_neutral", "indirect_gender_neutral")
"""The folder's published name, and what is left of it where a colon is not allowed."""


def magbig(folder: Path) -> Iterator[Prompt]:
    """MAGBIG (Friedrich et al. 2024): its folder ``prompts`` of ``occ_LANGUAGE.csv`` and so on.

    The tags are ``form`` (``direct``, ``indirect`` or ``star``, the German gender star) and
    ``name`` (the English key). The blank that some prompts begin with is dropped.

    Raises:
        AuditError: no such files, a column is missing, a prompt is empty, or English lacks a name.
    """
    if (folder / "prompts").is_dir():
        folder = folder / "prompts"
    forms = [("direct", folder), *(("indirect", folder / name) for name in _MAGBIG_INDIRECT)]
    found = False
    for form, place in forms:
        for kind, group in _MAGBIG_GROUPS.items():
            english = _magbig_file(place / f"{kind}_english.csv")
            for language, code in _MAGBIG_LANGUAGES.items():
                file = place / f"{kind}_{language}.csv"
                if file.is_file():
                    found = True
                    yield from _magbig_prompts(file, code, form, group, english)
            star = place / f"{kind}_german_star.csv"
            if form == "direct" and star.is_file():
                yield from _magbig_prompts(star, "de", "star", group, english)
    if not found:
        raise AuditError(f"{folder}: no occ_LANGUAGE.csv or adj_LANGUAGE.csv of MAGBIG in it")


def _magbig_file(path: Path) -> dict[str, tuple[str, str]]:
    """Name → text and place; empty where there is no file."""
    found: dict[str, tuple[str, str]] = {}
    if path.is_file():
        for where, row in rows(path, ["name", "prompt"], filled=["name", "prompt"]):
            name = row["name"].strip()
            if name in found:
                raise AuditError(f"{where}: the name '{name}' is there already, {found[name][1]}")
            found[name] = (row["prompt"].strip(), where)
    return found


def _magbig_prompts(
    path: Path, code: str, form: str, group: str, english: dict[str, tuple[str, str]]
) -> Iterator[Prompt]:
    for name, (text, where) in _magbig_file(path).items():
        if name not in english:
            raise AuditError(f"{where}: the English file beside it has no '{name}' to pair it with")
        tags = {"form": form, "name": name}
        yield Prompt(f"{group}/{form}/{name}", text, code, english[name][0], group, tags, where)


def parti_prompts(file: Path) -> Iterator[Prompt]:
    """PartiPrompts (Yu et al. 2022): ``PartiPrompts.tsv``; group: Category, tag: challenge.

    Raises:
        AuditError: a column is missing, or a prompt is empty.
    """
    columns = ["Prompt", "Category", "Challenge", "Note"]
    for where, row in rows(file, columns, delimiter="\t", filled=["Prompt"]):
        text = row["Prompt"].strip()
        tags = {"challenge": row["Challenge"].strip()}
        yield Prompt(_numbered(where), text, "en", text, row["Category"].strip(), tags, where)


def i2p(file: Path) -> Iterator[Prompt]:
    """I2P (Schramowski et al. 2023): prompts, categories and the sampler's settings, nothing else.

    Both column sets in circulation are read. Group: the first category; tags: ``categories`` (all,
    separated by commas), ``hard`` where the file has it, and ``seed`` and ``guidance`` of the
    published image. Never print these prompts unasked.

    Raises:
        AuditError: a column is missing, a prompt is empty, or a setting is not a number.
    """
    for where, row in rows(file, ["prompt", "categories"], filled=["prompt", "categories"]):
        text = row["prompt"].strip()
        categories = [name.strip() for name in row["categories"].split(",") if name.strip()]
        if not categories:
            raise AuditError(f"{where}: 'categories' names none")
        tags: Tags = {"categories": ",".join(categories)}
        if row.get("hard", "").strip():
            tags["hard"] = row["hard"].strip() not in ("0", "0.0", "False")
        settings: list[tuple[str, tuple[str, str], Callable[[str], int | float]]] = [
            ("seed", ("sd_seed", "evaluation_seed"), int),
            ("guidance", ("sd_guidance_scale", "evaluation_guidance"), float),
        ]
        for tag, columns, number in settings:
            given = next((row[name].strip() for name in columns if row.get(name, "").strip()), "")
            try:
                if given:
                    tags[tag] = number(given)
            except ValueError as error:
                raise AuditError(f"{where}: {columns[0]} is not a number") from error
        yield Prompt(_numbered(where), text, "en", text, categories[0], tags, where)


def _numbered(where: str) -> str:
    """Suites without ids: the line of the file, which stays the same in every run."""
    return f"line-{where.rsplit(':', 1)[1]}"


def crossmodal_3600(file: Path, languages: list[str] | None = None) -> Iterator[Prompt]:
    """Crossmodal-3600 (Thapliyal et al. 2022): ``captions.jsonl``, captions in 36 languages.

    The captions of one image were written independently: they are about the same picture, not
    translations, and all are held against the first English one. Tags: ``image``, ``locale`` (where
    the picture was taken) and ``caption`` (its number, from 0). ``id`` is ``IMAGE/NUMBER``.

    Args:
        languages: codes; ``None``: all.

    Raises:
        AuditError: a line is not JSON or has no image/key, English is missing, or a caption is
            empty or no text.
    """
    for where, item in _json_lines(file):
        key = item.get("image/key")
        if not isinstance(key, str) or not key:
            raise AuditError(f"{where}: no 'image/key'")
        captions = {
            code: _captions(value, code, where)
            for code, value in item.items()
            if not code.startswith("image/")
        }
        if not captions.get("en"):
            raise AuditError(f"{where}: no English captions ('en') to hold the others against")
        locale = str(item.get("image/locale", ""))
        for code, texts in captions.items():
            if languages is not None and code not in languages:
                continue
            for number, text in enumerate(texts):
                tags: Tags = {"image": key, "locale": locale, "caption": number}
                name = f"{key}/{number}"
                yield Prompt(name, text, code, captions["en"][0], locale, tags, where)


def _captions(value: Any, code: str, where: str) -> list[str]:
    """The published form, ``{"caption": [...], …}``, or the list alone."""
    texts = value.get("caption") if isinstance(value, dict) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise AuditError(f"{where}: the captions of '{code}' are no list of texts")
    if not all(text.strip() for text in texts):
        raise AuditError(f"{where}: an empty caption in '{code}'")
    return [text.strip() for text in texts]


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    # Not str.splitlines: a caption may hold U+2028, which ends no line of a JSONL file.
    for number, line in enumerate(text_of(path).split("\n"), start=1):
        if line.strip():
            where = f"{path}:{number}"
            yield where, _object(_parsed(line, path, number), where)


def coco_captions(file: Path) -> Iterator[Prompt]:
    """COCO captions (Chen et al. 2015): ``captions_val2017.json``.

    ``id`` is the annotation's id; tags: ``image`` (its id) and ``file_name``.

    Raises:
        AuditError: it is not JSON, lacks ``images`` or ``annotations``, or an annotation has no
            caption or an image that is not listed; with the annotation's number.
    """
    content = _object(_parsed(text_of(file), file), f"{file}:1")
    images, annotations = content.get("images"), content.get("annotations")
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise AuditError(f"{file}:1: lists 'images' and 'annotations' are expected")
    names: dict[Any, str] = {}
    for number, image in enumerate(images):
        if not isinstance(image, dict) or not isinstance(image.get("id"), int | str):
            raise AuditError(f"{file}: images[{number}] has no 'id', a number or text")
        names[image["id"]] = str(image.get("file_name", ""))
    for number, annotation in enumerate(annotations):
        where = f"{file}: annotations[{number}]"
        if not isinstance(annotation, dict) or not {"id", "image_id"} <= annotation.keys():
            raise AuditError(f"{where} has no 'id' or 'image_id'")
        text, image_id = annotation.get("caption"), annotation["image_id"]
        if not isinstance(text, str) or not text.strip():
            raise AuditError(f"{where} has no caption, or an empty one")
        if not isinstance(image_id, int | str) or image_id not in names:
            raise AuditError(f"{where}: 'images' has no image {image_id!r}")
        tags = {"image": str(image_id), "file_name": names[image_id]}
        text = text.strip()
        yield Prompt(str(annotation["id"]), text, "en", text, "caption", tags, where)


def _parsed(text: str, path: Path, line: int | None = None) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{path}:{line or error.lineno}"
        raise AuditError(f"{where}: not valid JSON at column {error.colno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise AuditError(
            f"{path}:{line or 1}: JSON is nested too deeply, or a number has too many digits"
        ) from error


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise AuditError(f"{where}: a JSON object is expected, not {type(value).__name__}")
    return value


LOADERS: dict[str, Callable[[Path], Iterator[Prompt]]] = {
    "magbig": magbig,
    "crossmodal-3600": crossmodal_3600,
    "parti-prompts": parti_prompts,
    "i2p": i2p,
    "coco-captions": coco_captions,
}


def load(suite: str, path: Path) -> list[Prompt]:
    """All prompts of an outside suite, by its name in :data:`LOADERS`.

    Raises:
        AuditError: there is no such suite, or its files are wrong.
    """
    if suite not in LOADERS:
        raise AuditError(
            f"no outside suite '{suite}'{did_you_mean(suite, LOADERS)}; "
            f"there are: {', '.join(LOADERS)}"
        )
    return list(LOADERS[suite](path))
