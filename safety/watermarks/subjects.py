"""Images with and without one mark, and by which null it is decided whether they carry it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from audit.errors import AuditError
from audit.statistics import clopper_pearson, rate

from .calibration import Calibration, key_of
from .codecs import Codec, agreement, check_message, matched

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """What a mark's reader says of N images.

    Attributes:
        statistic, nominal_p: shape (N,).
        agreement: shape (N, domains), the share of the message's bits that agree, upright; ``None``
            for a mark without a message.
    """

    statistic: Floats
    nominal_p: Floats
    agreement: Floats | None = None


@dataclass(frozen=True)
class Subject:
    """One mark on images, and the same images without it.

    Attributes:
        mark: its name; `key`: the SHA-256 of its message or key, for a calibration.
        marked, clean: N images each, pairs that differ in the mark alone.
        clusters: shape (N,), what images have in common, such as the prompt.
        score: reads images of at least `smallest` pixels.
        bits: of the message; 0 without one.
    """

    mark: str
    key: str
    marked: Sequence[Image.Image]
    clean: Sequence[Image.Image]
    clusters: Sequence[str]
    score: Callable[[Sequence[Image.Image]], Scores]
    smallest: int = 1
    bits: int = 0

    def __post_init__(self) -> None:
        sizes = {len(self.marked), len(self.clean), len(self.clusters)}
        if len(sizes) != 1 or sizes == {0}:
            raise AuditError(
                f"mark '{self.mark}': {len(self.marked)} marked and {len(self.clean)} clean images "
                f"in {len(self.clusters)} clusters: give pairs, at least one"
            )

    def readable(self, images: Sequence[Image.Image]) -> NDArray[np.bool_]:
        """Which images the mark can be read from, shape (N,)."""
        return np.array([i.width * i.height >= self.smallest for i in images], bool)


def subject_of(
    codec: Codec,
    images: Sequence[Image.Image],
    clusters: Sequence[str] | None = None,
    marked: Sequence[Image.Image] | None = None,
) -> Subject:
    """Clean images, marked by a codec.

    Args:
        clusters: without them every image stands for itself.
        marked: the images with the mark, for a codec that only its owner can embed.

    Raises:
        AuditError: the codec cannot embed, has neither message nor a check of its own, or an
            image is too small.
    """
    check_message(codec)
    return Subject(
        codec.name,
        key_of(codec.bits),
        [codec.embed(image) for image in images] if marked is None else marked,
        images,
        [str(at) for at in range(len(images))] if clusters is None else clusters,
        lambda read: _scores(codec, read),
        codec.smallest,
        len(codec.bits),
    )


def _scores(codec: Codec, images: Sequence[Image.Image]) -> Scores:
    decoded = codec.decode(images)
    found = matched(codec, decoded)
    shares = agreement(decoded, codec.bits) / len(codec.bits) if len(codec.bits) else None
    return Scores(found.matches.astype(float), found.p, shares)


@dataclass(frozen=True)
class Rule:
    """By which null a mark is taken as there at a false-positive rate.

    Attributes:
        kind: ``calibrated`` where clean images support the rate, else ``nominal``.
        note: why it is nominal, and what clean images said of the nominal p-value.
    """

    alpha: float
    kind: str
    note: str
    calibration: Calibration | None = None

    @classmethod
    def of(cls, mark: str, key: str, alpha: float, calibration: Calibration | None) -> Rule:
        """The rule for a mark at a rate.

        Raises:
            AuditError: the calibration is another mark's.
        """
        if calibration is None:
            return cls(alpha, "nominal", "no calibration")
        calibration.check_owner(mark, key)
        report = calibration.report
        if report.refusal:
            note = f"the calibration is refused: {report.refusal}"
        elif not calibration.null.supports(alpha):
            least = calibration.null.smallest_p
            note = f"{report.images} clean images support no rate below {least:.2g}"
        else:
            return cls(alpha, calibration.null.kind, "", calibration)
        if report.nominal_refusal:
            note += f"; the nominal p-value does not hold: {report.nominal_refusal}"
        return cls(alpha, "nominal", note, calibration)

    def p(self, scores: Scores) -> Floats:
        """The p-values to decide by, shape (N,).

        A nominal one is never smaller than what clean images have shown: a reading that k of m
        reach has at least (k + 1)/(m + 1), whatever a formula promises. So what is found at a rate
        is found at every larger one too.
        """
        if self.calibration is None:
            return scores.nominal_p
        calibrated = self.calibration.null.p(scores.statistic)
        if self.kind == "calibrated":
            return calibrated
        surer = calibrated <= self.calibration.null.smallest_p
        return np.where(surer, scores.nominal_p, np.maximum(scores.nominal_p, calibrated))

    def __call__(self, scores: Scores) -> NDArray[np.bool_]:
        """Which images carry the mark, shape (N,)."""
        found: NDArray[np.bool_] = self.p(scores) <= self.alpha
        return found


def clustered_interval(
    events: ArrayLike, clusters: ArrayLike, level: float = 0.95
) -> tuple[float, float]:
    """The exact interval of a proportion on its effective sample size (Korn and Graubard 1998).

    The design effect is that of :func:`audit.statistics.rate`. Where all events are equal, or all
    come from one cluster, it cannot be estimated, and a cluster counts as one observation: a
    thousand bits that all agree, of three images, are three observations.

    >>> low, high = clustered_interval([True] * 300, ["a"] * 100 + ["b"] * 100 + ["c"] * 100)
    >>> round(low, 3), high
    (0.292, 1.0)
    """
    found = rate(events, clusters, level)
    if found.estimate is None or found.clusters is None:
        return (0.0, 1.0)
    known = found.clusters > 1 and 0 < found.events < found.n
    size = found.effective_n if known else float(found.clusters)
    return clopper_pearson(found.estimate * size, size, level)
