"""The null of a watermark's statistic, measured on clean images of one population.

A nominal p-value takes the bits of an unmarked image for fair coins. They are not: on photographs
one key fires 190 times as often as its binomial p-value promises. What a mark's statistic does on
clean images is therefore measured, for each codec, key and population, and kept with the evidence
that the measured null holds (:mod:`safety.watermarks.null_report`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from audit import atomic
from audit.errors import AuditError

from .codecs import Codec, check_message, is_black, matched
from .null_report import LEAST_IMAGES, NullReport, bit_report, null_report

Floats = NDArray[np.float64]
SCHEMA = 1
LARGEST_FILE = 1 << 26
"""Bytes: a calibration of a million images has less."""
CHUNK = 32
"""Images decoded at a time."""


@dataclass(frozen=True, eq=False)
class Null:
    """The empirical null of a statistic of which more speaks for a mark.

    Attributes:
        values: shape (m,), the statistic on clean images, ascending.
    """

    values: Floats
    kind = "calibrated"

    @classmethod
    def measure(cls, statistics_of_clean: ArrayLike) -> Null:
        """The null of m clean images, shape (m,).

        Raises:
            AuditError: fewer than `LEAST_IMAGES`, or a statistic that is no finite number.
        """
        values = np.asarray(statistics_of_clean, dtype=float)
        if values.ndim != 1 or len(values) < LEAST_IMAGES:
            raise AuditError(
                f"{values.size} clean images are too few for a calibration: give at least "
                f"{LEAST_IMAGES}"
            )
        if not np.isfinite(values).all():
            raise AuditError("a statistic of a clean image is no finite number: leave it out")
        return cls(np.sort(values))

    @property
    def smallest_p(self) -> float:
        """The smallest p-value that m images support: 1/(m + 1)."""
        return 1 / (len(self.values) + 1)

    def p(self, statistic: ArrayLike) -> Floats:
        """p = (1 + #{null ≥ s})/(m + 1), of any shape: P(p ≤ α) ≤ α for a new clean image of the
        population, whatever the statistic's law (Phipson and Smyth 2010; Vovk et al. 2005).

        >>> Null.measure(range(99)).p([98, 49.5, -1]).tolist()
        [0.02, 0.5, 1.0]
        """
        return (1 + self._at_least(statistic)) / (len(self.values) + 1)

    def mid_p(self, statistic: ArrayLike) -> Floats:
        """Half of the ties, the image itself among them: its mean under the null is ½ (Lancaster
        1961). It may exceed α with less than 1 − α; `p` is the one to decide by."""
        return self._randomised(statistic, 0.5)

    def randomised_p(self, statistic: ArrayLike, generator: np.random.Generator) -> Floats:
        """A uniform share of the ties: exactly uniform for a new clean image of the population,
        ties or not (Vovk et al. 2005, smoothed). It is what a test of uniformity looks at."""
        return self._randomised(statistic, generator.random(np.shape(statistic)))

    def supports(self, alpha: float) -> bool:
        """Whether some statistic has a p-value of at most `alpha`."""
        return self.smallest_p <= alpha

    def threshold(self, alpha: float) -> float:
        """p ≤ `alpha` exactly for statistics above this value.

        Raises:
            AuditError: m images do not support `alpha`.

        >>> Null.measure(range(99)).threshold(0.05)
        94.0
        """
        if not 0 < alpha < 1:
            raise ValueError(f"a false-positive rate lies between 0 and 1, not {alpha}")
        if not self.supports(alpha):
            raise AuditError(
                f"{len(self.values)} clean images support no false-positive rate below "
                f"{self.smallest_p:.2g}: {alpha:g} takes {math.ceil(1 / alpha - 1)}"
            )
        rank = math.floor(alpha * (len(self.values) + 1) + 1e-9)
        return float(self.values[len(self.values) - rank])

    def _at_least(self, statistic: ArrayLike) -> NDArray[np.intp]:
        below = np.searchsorted(self.values, _number(statistic), side="left")
        return np.asarray(len(self.values) - below)

    def _randomised(self, statistic: ArrayLike, share: float | Floats) -> Floats:
        above = len(self.values) - np.searchsorted(self.values, _number(statistic), side="right")
        ties = self._at_least(statistic) - above
        p: Floats = (above + share * (1 + ties)) / (len(self.values) + 1)
        return p


def _number(statistic: ArrayLike) -> Floats:
    values = np.asarray(statistic, dtype=float)
    # NaN sorts above everything: an unreadable image would carry the surest mark.
    if np.isnan(values).any():
        raise ValueError("a statistic is NaN: leave out the images that could not be read")
    return values


@dataclass(frozen=True)
class Calibration:
    """A null with what it belongs to and what is known of it.

    Attributes:
        mark: the codec's or latent mark's name.
        key: SHA-256 of the message or key; a message may be a secret, so it is not stored.
        population: of which clean images, in words.
        unreadable: images that were too small for the mark, or black, and are not in the null.
    """

    mark: str
    key: str
    population: str
    null: Null
    report: NullReport
    unreadable: int = 0

    def check(self, mark: str, key: str) -> None:
        """That this null is to be used for a mark.

        Raises:
            AuditError: it is another's, or its self-test failed.
        """
        self.check_owner(mark, key)
        if self.report.refusal:
            raise AuditError(f"the calibration of '{mark}' is refused: {self.report.refusal}")

    def check_owner(self, mark: str, key: str) -> None:
        """That this is the null of a mark, good or not.

        Raises:
            AuditError: it is another's.
        """
        if (mark, key) != (self.mark, self.key):
            what = f"the mark '{self.mark}'" if mark != self.mark else "another message or key"
            raise AuditError(f"this calibration is of {what}, not of '{mark}': calibrate again")


def key_of(bits: NDArray[np.bool_]) -> str:
    """The SHA-256 of a message, by which a calibration knows it."""
    return sha256(np.asarray(bits, bool).tobytes()).hexdigest()


def calibrate(
    codec: Codec,
    images: Iterable[Image.Image],
    population: str,
    groups: Sequence[str] | None = None,
    keys: int = 1000,
    seed: int = 0,
) -> Calibration:
    """Measure the null of a codec's own message on clean images, in a stream.

    The statistic is what :func:`safety.watermarks.codecs.matched` counts: agreeing bits in the best
    domain and polarity, or, of a mark without a message that checks itself, whether it is there.
    Black images are left out, as detection does it.

    Args:
        groups: what each image comes from (a photograph, a prompt), for the self-test.
        keys: how many random messages are held against the same bits, for the worst of them.

    Raises:
        AuditError: the codec has neither message nor check, or too few images can be read.
    """
    check_message(codec)
    decoded, readable, total, waiting = [], [], 0, iter(images)
    while chunk := list(islice(waiting, CHUNK)):
        fit = [i.width * i.height >= codec.smallest and not is_black(i) for i in chunk]
        readable += fit
        total += len(chunk)
        kept = [image for image, fits in zip(chunk, fit, strict=True) if fits]
        if kept:
            decoded.append(codec.decode(kept))
    if groups is not None and len(groups) != total:
        raise AuditError(f"{total} clean images but {len(groups)} groups")
    bits = np.concatenate(decoded) if decoded else np.zeros((0, 1, len(codec.bits)), bool)
    found = matched(codec, bits)
    null = Null.measure(found.matches)
    kept_groups = None if groups is None else np.asarray(groups)[np.array(readable)]
    if len(codec.bits):
        report = bit_report(bits, codec.bits, kept_groups, keys, seed)
    else:
        report = null_report(found.matches, found.p, kept_groups, best=1, seed=seed)
    unreadable = total - len(bits)
    return Calibration(codec.name, key_of(codec.bits), population, null, report, unreadable)


def calibrate_statistic(
    mark: str,
    key: str,
    statistics: ArrayLike,
    nominal_p: ArrayLike,
    population: str,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> Calibration:
    """The same of a mark without bits, such as Tree-Ring: its statistic and nominal p-value on
    clean images, shape (m,) each."""
    null = Null.measure(statistics)
    report = null_report(statistics, nominal_p, groups, seed=seed)
    return Calibration(mark, key, population, null, report)


def save(path: Path, calibrations: Sequence[Calibration]) -> None:
    """Write calibrations as one JSON file, whole or not at all."""
    content = {"t2i_audit_calibrations": SCHEMA, "calibrations": [_plain(c) for c in calibrations]}
    atomic.replace(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def load(path: Path) -> list[Calibration]:
    """Read what `save` wrote.

    Raises:
        AuditError: it cannot be read, is none, of another version, or damaged.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise AuditError(f"{path}: larger than {LARGEST_FILE >> 20} MiB; it is no calibration")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise AuditError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise AuditError(f"{path}: is no JSON: {error}") from error
    version = content.get("t2i_audit_calibrations") if isinstance(content, Mapping) else None
    if version is None:
        raise AuditError(f"{path}: is no file of calibrations; make one with `watermark calibrate`")
    if version != SCHEMA:
        raise AuditError(f"{path}: version {version} of calibrations; this reads {SCHEMA}")
    try:
        return [_calibration(each) for each in content["calibrations"]]
    except (AuditError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise AuditError(f"{path}: is damaged: {error!r}"[:300]) from error


def _plain(calibration: Calibration) -> dict[str, Any]:
    # Counts of equal values: matches of 48 bits take at most 25 of them, whatever m is.
    values, counts = np.unique(calibration.null.values, return_counts=True)
    return {
        "mark": calibration.mark,
        "key": calibration.key,
        "population": calibration.population,
        "unreadable": calibration.unreadable,
        "null": {"values": values.tolist(), "counts": counts.tolist()},
        "report": calibration.report.plain(),
    }


def _calibration(plain: Mapping[str, Any]) -> Calibration:
    values = np.asarray(plain["null"]["values"], dtype=float)
    counts = np.asarray(plain["null"]["counts"])
    if counts.dtype.kind != "i" or (counts < 1).any() or counts.sum() > 10**8:
        raise ValueError("the counts of the null are no whole numbers above 0")
    if (np.diff(values) <= 0).any():
        raise ValueError("the values of the null do not ascend")
    report = NullReport.of_plain(plain["report"])
    null = Null.measure(np.repeat(values, counts))
    if report.images != len(null.values):
        raise ValueError(f"a report on {report.images} images, a null of {len(null.values)}")
    mark, key, population = plain["mark"], plain["key"], plain["population"]
    if not all(isinstance(text, str) for text in (mark, key, population)):
        raise ValueError("mark, key and population are texts")
    return Calibration(mark, key, population, null, report, int(plain["unreadable"]))
