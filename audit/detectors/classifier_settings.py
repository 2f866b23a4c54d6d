"""What a user's classifier sees and says, read from YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from audit import yaml_files
from audit.errors import AuditError
from audit.plugins import did_you_mean
from audit.prompts.reading import text_of

from .models import Input

KEYS = ("input", "crop", "margin", "softmax", "sigmoid", "heads")
CROPS = ("face", "picture")


@dataclass(frozen=True)
class Head:
    """One attribute: its labels, and where their scores begin in the network's output.

    Attributes:
        merged: a suite's label → those of the network that it holds; empty: labels as they are.
    """

    attribute: str
    labels: tuple[str, ...]
    start: int
    merged: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def part(self) -> slice:
        """The head's scores in the output."""
        return slice(self.start, self.start + len(self.labels))

    @property
    def columns(self) -> dict[str, list[int]]:
        """Reported label → the places of its scores within the head."""
        whole = self.merged or {label: (label,) for label in self.labels}
        return {name: [self.labels.index(one) for one in held] for name, held in whole.items()}


@dataclass(frozen=True)
class Settings:
    """See :class:`audit.detectors.classifier.Classifier`.

    Attributes:
        placed: some head says where it begins, so that others may be left out.
    """

    input: Input | None
    crop: str
    margin: float
    softmax: bool
    sigmoid: bool
    heads: tuple[Head, ...]
    placed: bool


class _Lines(dict[str, str]):
    """Key → ``FILE:LINE``; the name of the spec's section for keys that stand there."""

    def __missing__(self, key: str) -> str:
        return "detectors: classifier"


def read(beside: Path | None, options: Mapping[str, Any]) -> Settings:
    """The settings in the file beside a model, overridden by the spec's.

    Raises:
        AuditError: with the file and line of what is wrong.
    """
    values, lines = ({}, _Lines()) if beside is None else _yaml(beside)
    for key, value in options.items():
        values[key] = value
        lines.pop(key, None)
    for key in values:
        if key not in KEYS:
            raise AuditError(f"{lines[key]}: unknown key '{key}'{did_you_mean(key, KEYS)}")
    crop, margin = values.get("crop", "face"), values.get("margin", 0.25)
    sigmoid = values.get("sigmoid", False)
    softmax = values.get("softmax", not sigmoid)
    if crop not in CROPS:
        raise AuditError(f"{lines['crop']}: crop is one of {', '.join(CROPS)}, not {crop!r}")
    if not _number(margin) or not 0 <= margin <= 2:
        raise AuditError(f"{lines['margin']}: margin is a share of the face, 0 to 2: {margin!r}")
    if not isinstance(softmax, bool):
        raise AuditError(f"{lines['softmax']}: softmax is true or false, not {softmax!r}")
    if not isinstance(sigmoid, bool) or (sigmoid and softmax):
        raise AuditError(
            f"{lines['sigmoid']}: sigmoid is true or false, and not beside softmax: {sigmoid!r}"
        )
    given = values.get("heads")
    # The softmax of one score is 1, whatever the score.
    heads = () if given is None else _heads(given, lines["heads"], 2 if softmax else 1)
    placed = any(isinstance(head, Mapping) and "from" in head for head in (given or {}).values())
    seen = _input(values["input"], lines["input"]) if "input" in values else None
    return Settings(seen, crop, float(margin), softmax, sigmoid, heads, placed)


def _yaml(path: Path) -> tuple[dict[str, Any], _Lines]:
    try:
        text = text_of(path)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml_files.parsed(text, str(path))
    except yaml_files.WRONG as error:
        raise yaml_files.refusal(error, str(path)) from error
    if not isinstance(node, yaml.MappingNode) or not isinstance(values, dict):
        raise AuditError(f"{path}:1: a mapping with {', '.join(KEYS)} is expected")
    lines = {str(key.value): f"{path}:{key.start_mark.line + 1}" for key, _ in node.value}
    return {str(key): value for key, value in values.items()}, _Lines(lines)


def _heads(given: Any, where: str, least: int) -> tuple[Head, ...]:
    if not isinstance(given, Mapping) or not given:
        raise AuditError(f"{where}: heads maps an attribute to its labels, in the output's order")
    heads, end = [], 0
    for attribute, value in given.items():
        place = f"{where}: head '{attribute}'"
        body = value if isinstance(value, Mapping) else {"labels": value}
        for key in body:
            if key not in ("labels", "from", "merged"):
                raise AuditError(f"{place}: unknown key '{key}'; there are labels, from and merged")
        labels, start = body.get("labels"), body.get("from", end)
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise AuditError(
                f"{place} needs labels: a list of names in the order of the output "
                "(yes and no in quotes)"
            )
        if len(labels) < least or len(set(labels)) < len(labels):
            many = "two labels or more" if least == 2 else "a label or more"
            hint = " (one needs sigmoid: true)" if len(labels) == 1 < least else ""
            raise AuditError(f"{place} needs {many}, none twice, not {labels!r}{hint}")
        if not isinstance(start, int) or isinstance(start, bool) or start < 0:
            raise AuditError(f"{place}: from is the index of its first score, not {start!r}")
        merged = _merged(body["merged"], labels, place, least) if "merged" in body else {}
        heads.append(Head(str(attribute), tuple(labels), start, merged))
        end = start + len(labels)
    ordered = sorted(heads, key=lambda head: head.start)
    for one, other in pairwise(ordered):
        if one.part.stop > other.start:
            raise AuditError(f"{where}: heads '{one.attribute}' and '{other.attribute}' overlap")
    return tuple(heads)


def _merged(given: Any, labels: list[str], place: str, least: int) -> dict[str, tuple[str, ...]]:
    if least == 1:
        raise AuditError(f"{place}: merged adds probabilities, which with sigmoid have no sum")
    form = f"{place}: merged maps a label to a list of the network's, such as 0-19: [0-9, 10-19]"
    if not isinstance(given, Mapping) or len(given) < 2:
        raise AuditError(form)
    if not all(isinstance(one, str) and isinstance(held, list) for one, held in given.items()):
        raise AuditError(form)
    named = [str(label) for held in given.values() for label in held]
    for label in named:
        if label not in labels:
            raise AuditError(f"{place}: merged: no label '{label}'{did_you_mean(label, labels)}")
    left = [label for label in labels if named.count(label) != 1]
    if left:
        raise AuditError(f"{place}: merged holds each label once, but not {', '.join(left)}")
    return {one: tuple(held) for one, held in given.items()}


def _input(given: Any, where: str) -> Input:
    known = ("size", "mean", "std", "colour")
    if not isinstance(given, Mapping):
        raise AuditError(f"{where}: input is a mapping with {', '.join(known)}")
    for key in given:
        if key not in known:
            raise AuditError(f"{where}: input: unknown key '{key}'{did_you_mean(str(key), known)}")
    for key in ("size", "mean", "std"):
        if key not in given:
            raise AuditError(f"{where}: input needs '{key}', as the model was trained with")
    size = given["size"] if isinstance(given["size"], list) else [given["size"]] * 2
    if len(size) != 2 or not all(_number(side) and side in range(1, 4097) for side in size):
        raise AuditError(f"{where}: input: size is pixels, or [height, width]: {given['size']!r}")
    for key in ("mean", "std"):
        three = given[key]
        if not isinstance(three, list) or len(three) != 3 or not all(map(_number, three)):
            raise AuditError(f"{where}: input: {key} is three numbers, not {three!r}")
    if min(given["std"]) <= 0:
        raise AuditError(f"{where}: input: std is positive, not {given['std']!r}")
    colour = given.get("colour", "RGB")
    if colour not in ("RGB", "BGR"):
        raise AuditError(f"{where}: input: colour is RGB or BGR, not {colour!r}")
    mean, std = (tuple(map(float, given[key])) for key in ("mean", "std"))
    return Input(int(size[0]), int(size[1]), mean, std, colour)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
