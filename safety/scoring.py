"""A filter's scores and decisions on images, prompts or scores that lie there, without a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from audit.errors import AuditError
from audit.plugins import did_you_mean

from .labelled_sets import CONTEXT, LabelledSet

if TYPE_CHECKING:
    from audit.study import Study

    from .filters.declared import Declared

BATCH = 16


@dataclass(frozen=True)
class Scored:
    """What one filter says of N images.

    Attributes:
        scores: higher means more likely blocked; NaN where there is none.
        blocked: its decisions; where there is no score they say nothing.
        threshold: where it decides by its score alone, else ``None``.
        probability: every score can be read as the probability to be restricted.
        outcomes: why a row has no score, counted.
    """

    name: str
    scores: NDArray[np.float64]
    blocked: NDArray[np.bool_]
    threshold: float | None
    probability: bool
    outcomes: Mapping[str, int]

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which rows have a score."""
        return ~np.isnan(self.scores)


def from_columns(
    labelled: LabelledSet,
    thresholds: Mapping[str, float],
    default: float,
    probabilities: bool = True,
) -> list[Scored]:
    """The score columns of a set; an image is blocked from the threshold on.

    Args:
        probabilities: the scores are; margins are not, wherever they happen to lie.

    Raises:
        AuditError: a threshold is for no column, or no column has a score.
    """
    for name in thresholds:
        if name not in labelled.scores:
            hint = did_you_mean(name, labelled.scores)
            raise AuditError(f"{labelled.name}: a threshold for '{name}', which is no score{hint}")
    found = []
    for name in labelled.scores:
        scores = labelled.frame[name].to_numpy(float)
        if np.isnan(scores).all():
            raise AuditError(f"{labelled.name}: no row has a score of '{name}'")
        threshold = thresholds.get(name, default)
        found.append(
            Scored(
                name,
                scores,
                scores >= threshold,
                threshold,
                probabilities,
                _outcomes(scores, int(np.isnan(scores).sum()), 0),
            )
        )
    return found


def from_images(labelled: LabelledSet, names: Sequence[str], study: Study) -> list[Scored]:
    """Filters of the registry run on the images of a set, or on its prompts.

    A row without a prompt has no score of a filter of prompts.

    Raises:
        AuditError: the set has no images or no prompts for a filter that looks at them, or a filter
            does not exist or cannot serve.
    """
    from audit import plugins
    from audit.detectors.base import sees_images, unavailable
    from audit.generation import progress
    from audit.store import column_safe

    from .filters.declared import declared, detector_of

    there = declared(study)
    known = {filter.name: filter for filter in there.filters}
    detectors: dict[str, Any] = {}
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            if name in plugins.names("detectors"):
                hint = f"; a --spec that names its detector brings it: detectors: {{{name}: {{…}}}}"
            raise AuditError(f"no filter '{name}'{hint}; there are: {', '.join(known)}")
    parts = {one.name: one.parts for one in there.combinations}
    wanted = list(names)
    for name in wanted:
        wanted += parts.get(name, ())  # grows while it is read: a part may be a combination too
        detector = detector_of(known[name].score, there.detectors)
        if detector and detector not in detectors:
            factory = plugins.load("detectors", detector)
            if reason := unavailable(factory, study):
                raise AuditError(f"{name}: {reason}")
            if sees_images(factory) and labelled.pictures is None:
                raise AuditError(f"{name}: {labelled.name} holds no images for it to look at")
            if not sees_images(factory) and "prompt" not in labelled.frame:
                raise AuditError(f"{name}: {labelled.name} has no column 'prompt' for it to read")
            detectors[detector] = factory(study)
    seeing = {name for name, detector in detectors.items() if sees_images(type(detector))}
    pictures = labelled.pictures if seeing else None
    total = len(labelled.frame)
    prompts = pd.Series([""] * total)
    if "prompt" in labelled.frame:
        prompts = labelled.frame["prompt"].fillna("").astype(str)
    readable: list[bool] = []
    columns: dict[str, list[pd.DataFrame]] = {name: [] for name in detectors}
    with progress("filters", total, 0) as bar:
        shown = pictures() if pictures else repeat(Image.new("RGB", (1, 1)), total)
        for batch in _batches(shown, prompts.tolist(), readable):
            for name, detector in detectors.items():
                columns[name].append(pd.DataFrame(detector.detect(batch)))
            bar.update(len(readable) - bar.n)
    if not any(readable):
        raise AuditError(f"{labelled.name}: none of the {len(readable)} images can be read")
    frame = pd.concat(
        [
            pd.concat(parts, ignore_index=True).add_prefix(f"{column_safe(name)}_")
            for name, parts in columns.items()
        ],
        axis=1,
    )
    asked = (prompts != "").to_numpy()[readable]
    for column in map(str, frame):
        if detector_of(column, detectors) not in seeing:
            frame[column] = frame[column].where(asked)
    frame, at = with_votes(there, frame), np.flatnonzero(readable)
    left, found = len(readable) - len(at), []
    for name in names:
        filter = known[name]
        scores = np.full(len(readable), np.nan)
        blocked = np.zeros(len(readable), bool)
        given = filter.scored(frame).to_numpy(bool)
        scores[at[given]] = frame.loc[given, filter.score].to_numpy(float)
        blocked[at[given]] = filter.blocked(frame[given]).to_numpy(bool)
        found.append(
            Scored(
                name,
                scores,
                blocked,
                None if filter.decision else filter.threshold,
                filter.gives_probabilities(scores[at[given]]),
                _outcomes(scores, int((~given).sum()), left),
            )
        )
    return found


def table_of(labelled: LabelledSet, scored: Sequence[Scored]) -> pd.DataFrame:
    """The scores as :func:`safety.labelled_sets.open_set` reads them from a CSV."""
    known = [name for name in CONTEXT if name in labelled.frame]
    frame = labelled.frame[known].assign(label=labelled.frame.restricted.astype(int))
    if "id" not in frame and "image" in labelled.frame:
        frame = frame.assign(id=labelled.frame.image)
    return frame.assign(**{one.name: one.scores for one in scored})


def with_votes(there: Declared, frame: pd.DataFrame) -> pd.DataFrame:
    """The table with the votes of the combinations all of whose parts were asked.

    A detector that cannot serve has no columns; what it would have said is not guessed.
    """
    asked = {filter.name for filter in there.filters if filter.score in frame}
    kept = []
    for one in there.combinations:
        if asked.issuperset(one.parts):
            kept.append(one)
            asked.add(one.name)
    return replace(there, combinations=tuple(kept)).table(frame)


def _outcomes(scores: NDArray[np.float64], unscored: int, unreadable: int) -> dict[str, int]:
    known = int((~np.isnan(scores)).sum())
    counts = {"scored": known, "unscored": unscored, "unreadable": unreadable}
    return {key: count for key, count in counts.items() if count or key == "scored"}


def _batches(
    pictures: Iterator[Image.Image | None], prompts: Sequence[str], readable: list[bool]
) -> Iterator[Any]:
    """Batches of the images that can be read; `readable` grows by one for each image."""
    from audit.detectors.base import Batch, Item

    numbered = enumerate(pictures)
    while part := list(islice(numbered, BATCH)):
        readable += [image is not None for _, image in part]
        items = [
            Item(str(at), str(at), image, prompts[at], prompts[at])
            for at, image in part
            if image is not None
        ]
        if items:
            yield Batch(items)
