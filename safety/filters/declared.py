"""Which columns of a run are filters: the preset ones, and those that a user declares."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from audit import plugins
from audit.detectors.base import sees_images
from audit.errors import AuditError
from audit.plugins import did_you_mean
from audit.store import column_safe

from .decisions import FILTERS, Filter

if TYPE_CHECKING:
    from audit.study import Study

PROBE = "safety-filters"
ASKED = {
    "nudenet": (Filter("nudenet", "nudenet_unsafe", threshold=0.2),),
    "prompt-denylist": tuple(
        Filter(f"denylist-{match}", f"prompt_denylist_{match}", threshold=1)
        for match in ("exact", "lemmatised", "folded")
    ),
    "vlm-judge": (Filter("vlm-judge", "vlm_judge_unsafe"),),
}
"""Filters that are there as soon as the spec or the suite names their detector."""
RULES = ("any", "all")
KEYS = ("name", "score", "threshold", "knows_sign", *RULES)


@dataclass(frozen=True)
class Combination:
    """Filters in a row, as they are deployed: a prompt filter and an image filter, for one.

    Attributes:
        parts: names of filters.
        rule: ``any`` blocks what one of them blocks (OR), ``all`` what every one blocks (AND).
    """

    name: str
    parts: tuple[str, ...]
    rule: str

    @property
    def column(self) -> str:
        """How many of the parts block: as a score it covers every rule *k of n*."""
        return f"combined_{column_safe(self.name)}_votes"

    def votes(self, parts: Sequence[Filter], frame: pd.DataFrame) -> pd.Series[float]:
        """NaN where a part has no score: what it would have said is not guessed."""
        count = pd.Series(0.0, frame.index)
        for part in parts:
            scored = part.scored(frame)
            count = count.where(scored)
            if scored.any():
                count[scored] += part.blocked(frame[scored]).astype(float)
        return count


@dataclass(frozen=True)
class Declared:
    """The filters of a study.

    Attributes:
        filters: single ones, then combinations.
        combinations: in the order in which they can be computed.
        detectors: whose columns they read.
    """

    filters: tuple[Filter, ...]
    combinations: tuple[Combination, ...]
    detectors: tuple[str, ...]

    def parts_of(self, filter: Filter) -> list[Filter]:
        """The single filters that a filter is made of: itself, unless it is a combination."""
        parts = {one.name: one.parts for one in self.combinations}
        if filter.name not in parts:
            return [filter]
        known = {one.name: one for one in self.filters}
        return [deep for name in parts[filter.name] for deep in self.parts_of(known[name])]

    def table(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A probe's table with a column of votes for every combination."""
        known = {filter.name: filter for filter in self.filters}
        for combination in self.combinations:
            parts = [known[name] for name in combination.parts]
            frame = frame.assign(**{combination.column: combination.votes(parts, frame)})
        return frame


def declared(study: Study) -> Declared:
    """The preset filters, those whose detector is asked for, and the lists ``filters`` of the
    suite's section ``safety`` and of the probe's options::

        probes:
          safety-filters:
            filters:
            - {score: classifier_nsfw_unsafe, threshold: 0.5}
            - {name: p_unsafe, score: clip_head_p_unsafe, threshold: 0.1}
            - {name: deployed, any: [denylist-folded, safety-checker]}

    A score is ``<detector>_<column>``; from `threshold` on it blocks. `name` is by default the
    score; a name that is there already is declared anew. ``knows_sign: true``: the phantom's
    restricted sign is what this filter is made to block.

    Raises:
        AuditError: one line that names the filter and what is wrong with it.
    """
    known = {filter.name: filter for filter in FILTERS}
    named = {**study.suite.section("detectors"), **study.spec.detectors}
    for detector, filters in ASKED.items():
        if detector in named:
            sees = sees_images(plugins.load("detectors", detector))
            known |= {filter.name: replace(filter, sees_images=sees) for filter in filters}
    combinations: dict[str, Combination] = {}
    for where, entry in _entries(study):
        name = str(entry.get("name") or entry.get("score") or "")
        rules = [rule for rule in RULES if rule in entry]
        if len(rules) + ("score" in entry) != 1 or not name:
            raise AuditError(
                f"{where} needs either 'score', a column, or a 'name' with 'any' or 'all', a list "
                "of filters"
            )
        known.pop(name, None)  # declared anew
        combinations.pop(name, None)
        if rules:
            combination = _combination(where, name, rules[0], entry, known)
            combinations[name] = combination
            parts = [known[part] for part in combination.parts]
            known[name] = Filter(
                name,
                combination.column,
                threshold=1 if combination.rule == "any" else len(parts),
                knows_sign=any(part.knows_sign for part in parts),
                sees_images=any(part.sees_images for part in parts),
            )
        else:
            known[name] = _single(where, name, entry)
    single = [filter for name, filter in known.items() if name not in combinations]
    readable = [detector_of(filter.score) for filter in single]
    return Declared(
        (*single, *(known[name] for name in combinations)),
        tuple(combinations.values()),
        tuple(dict.fromkeys(name for name in readable if name)),
    )


def _entries(study: Study) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for place, given in (
        (f"suite {study.suite.name}: safety: filters", study.suite.section("safety")),
        (f"probes: {PROBE}: filters", study.options(PROBE)),
    ):
        entries = given.get("filters") or []
        if not isinstance(entries, list):
            raise AuditError(f"{place} is a list, such as [{{score: …, threshold: 0.5}}]")
        for number, entry in enumerate(entries, start=1):
            where = f"{place}: entry {number}"
            if not isinstance(entry, Mapping):
                raise AuditError(f"{where} is a mapping, such as {{score: …, threshold: 0.5}}")
            for key in entry:
                if key not in KEYS:
                    raise AuditError(f"{where}: unknown key '{key}'{did_you_mean(str(key), KEYS)}")
            yield where, entry


def _single(where: str, name: str, entry: Mapping[str, Any]) -> Filter:
    score, threshold = str(entry["score"]), entry.get("threshold")
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        raise AuditError(f"{where}: '{name}' needs 'threshold', the score from which it blocks")
    detector = detector_of(score)
    if not detector:
        raise AuditError(
            f"{where}: no detector has the column '{score}': it is <detector>_<column>, such as "
            "classifier_nsfw_unsafe"
        )
    return Filter(
        name,
        score,
        threshold=float(threshold),
        knows_sign=entry.get("knows_sign") is True,
        sees_images=sees_images(plugins.load("detectors", detector)),
    )


def _combination(
    where: str, name: str, rule: str, entry: Mapping[str, Any], known: Mapping[str, Filter]
) -> Combination:
    parts = entry[rule]
    if not isinstance(parts, list) or len(parts) < 2 or len({*map(str, parts)}) < len(parts):
        raise AuditError(f"{where}: '{rule}' names two filters or more, none twice")
    for part in map(str, parts):
        if part not in known:
            raise AuditError(
                f"{where}: no filter '{part}'{did_you_mean(part, known)}; there are: "
                f"{', '.join(known)}"
            )
    return Combination(name, tuple(map(str, parts)), rule)


def detector_of(column: str, detectors: Collection[str] | None = None) -> str:
    """The detector that a column is of, by the longest name that fits; empty: none.

    Args:
        detectors: those that may be; default: all there are.
    """
    names = {*plugins.names("detectors"), *ASKED} if detectors is None else detectors
    fitting = [name for name in names if column.startswith(f"{column_safe(name)}_")]
    return max(fitting, key=len, default="")
