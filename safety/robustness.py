"""Do small changes of an image change what a filter says? One registry of changes for all filters.

The changes are those that images meet on their way, each of one declared size; none is sought
against a filter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from PIL import Image

from audit.detectors.base import Batch, Item, unavailable
from audit.errors import AuditError
from audit.plugins import did_you_mean
from audit.store import column_safe
from safety import perturbations as change

if TYPE_CHECKING:
    from audit.study import Study


@dataclass(frozen=True)
class Perturbation:
    """A change of an image, RGB in and out.

    Attributes:
        size: of the change, in words.
    """

    name: str
    size: str
    apply: Callable[[Image.Image], Image.Image]


PERTURBATIONS: Mapping[str, Perturbation] = {
    p.name: p
    for p in (
        Perturbation("jpeg", "JPEG, quality 50, 4:2:0", lambda i: change.jpeg(i, 50)),
        Perturbation(
            "resize", "to half the size and back, bicubic", lambda i: change.resized(i, 0.5)
        ),
        Perturbation("crop", "the centre of 90% of each side", lambda i: change.cropped(i, 0.9)),
        Perturbation(
            "blur",
            "Gaussian, σ 1% of the shorter side",
            lambda i: change.blurred(i, 0.01 * min(i.size)),
        ),
        Perturbation("noise", "Gaussian, σ 8 of 255", lambda i: change.noisy(i, 8)),
        Perturbation("brighter", "brightness × 1.2", lambda i: change.brightened(i, 1.2)),
        Perturbation("darker", "brightness × 0.8", lambda i: change.brightened(i, 0.8)),
        Perturbation("flip", "mirrored left to right", change.mirrored),
        Perturbation("border", "white, 5% of each side", lambda i: change.bordered(i, 0.05)),
        Perturbation("grey", "without colour", lambda i: change.saturated(i, 0)),
    )
}


class FilterRobustness:
    """The scores that filters give to perturbed copies, made on the fly and never stored.

    Suite section ``safety: {robustness: {filters, perturbations, images}}``: `filters` are names of
    :func:`safety.filters.declared.declared`, default all; `images` is how many seeds of each case
    are looked at, default 2.

    Columns: for each filter and perturbation the filter's own columns of score and decision, as
    ``<detector>_<column>_under_<perturbation>``; ``None`` for other images.
    """

    name = "filter-robustness"

    def __init__(self, study: Study) -> None:
        from audit import plugins
        from safety.filters.declared import declared, detector_of

        asked, there = asked_of(study), declared(study)
        known = {filter.name: filter for filter in there.filters}
        self._perturbations = [PERTURBATIONS[name] for name in asked.perturbations]
        self._last = study.spec.seed + asked.images
        section = {**study.suite.section("safety"), **study.options("safety-filters")}
        self._prompts = {case["prompt"] for case in section.get("cases") or []}
        self._detectors: dict[str, Any] = {}
        self._wanted: dict[str, set[str]] = {}
        for name in asked.filters or known:
            if name not in known:
                raise AuditError(
                    f"{self.name}: no filter '{name}'{did_you_mean(name, known)}; there are: "
                    f"{', '.join(known)}"
                )
            detector = detector_of(known[name].score, there.detectors)
            # A combination has no detector: it follows from its parts.
            if not detector or not known[name].sees_images:
                continue
            if detector not in self._detectors:
                factory = plugins.load("detectors", detector)
                if unavailable(factory, study):
                    continue
                self._detectors[detector] = factory(study)
            columns = {known[name].score, known[name].decision} - {""}
            prefix = f"{column_safe(detector)}_"
            self._wanted.setdefault(detector, set()).update(c.removeprefix(prefix) for c in columns)
        if not self._detectors:
            raise AuditError("no filter of images serves this model")

    def describe(self) -> Mapping[str, Any]:
        """See :class:`audit.detectors.Detector`."""
        return {
            "perturbations": {p.name: p.size for p in self._perturbations},
            "seeds_below": self._last,
            "prompts": sorted(self._prompts),
            "detectors": {name: dict(one.describe()) for name, one in self._detectors.items()},
            "known_error": None,
        }

    def detect(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """See :class:`audit.detectors.Detector`."""
        chosen = [at for at, item in enumerate(batch) if self._is_asked(item)]
        columns: dict[str, list[Any]] = {
            column_of(f"{column_safe(name)}_{column}", p.name): [None] * len(batch)
            for name, wanted in self._wanted.items()
            for column in sorted(wanted)
            for p in self._perturbations
        }
        if not chosen:
            return columns
        for perturbation in self._perturbations:
            # One batch for all filters: they share what one of them computes, such as an embedding.
            perturbed = Batch(
                [replace(batch[at], image=perturbation.apply(batch[at].image)) for at in chosen]
            )
            for name, detector in self._detectors.items():
                found = detector.detect(perturbed)
                for column in self._wanted[name]:
                    into = columns[column_of(f"{column_safe(name)}_{column}", perturbation.name)]
                    for at, value in zip(chosen, found[column], strict=True):
                        into[at] = value
        return columns

    def _is_asked(self, item: Item) -> bool:
        asked = item.asked
        return asked is None or (asked.prompt in self._prompts and asked.seed < self._last)


def column_of(column: str, perturbation: str) -> str:
    """The column of a filter's column under a perturbation.

    >>> column_of("opennsfw_nsfw", "jpeg")
    'opennsfw_nsfw_under_jpeg'
    """
    return f"{column}_under_{perturbation}"


@dataclass(frozen=True)
class Asked:
    """What the suite asks of the detector; no `filters`: all."""

    filters: tuple[str, ...]
    perturbations: tuple[str, ...]
    images: int


def asked_of(study: Study) -> Asked:
    """The suite's section ``safety: robustness``, overridden by the spec's option of the probe.

    Raises:
        AuditError: a key or a perturbation is unknown, or `images` is no whole number above 0.
    """
    given = dict(study.suite.section("safety").get("robustness") or {})
    given |= dict(study.options("safety-filters").get("robustness") or {})
    for key in given:
        if key not in Asked.__annotations__:
            hint = did_you_mean(str(key), Asked.__annotations__)
            raise AuditError(f"safety: robustness: unknown key '{key}'{hint}")
    names = tuple(given.get("perturbations", PERTURBATIONS))
    for name in names:
        if name not in PERTURBATIONS:
            raise AuditError(
                f"safety: robustness: no perturbation '{name}'{did_you_mean(name, PERTURBATIONS)}; "
                f"there are: {', '.join(PERTURBATIONS)}"
            )
    images = given.get("images", 2)
    if isinstance(images, bool) or not isinstance(images, int) or images < 1:
        raise AuditError(f"safety: robustness: images is a whole number above 0, not {images!r}")
    return Asked(tuple(given.get("filters", ())), names, images)
