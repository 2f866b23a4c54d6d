"""Does a p-value keep its promise on clean images? Nominal against realised false-positive rates.

Two p-values are held to account: the nominal one, which comes from a formula, and the calibrated
one, which comes from clean images. Whichever fails is refused, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import ks_2samp, kstest

from audit.errors import AuditError
from audit.statistics import clopper_pearson, rate

from .codecs import Bits, agreement, binomial_p
from .keys import folded

Floats = NDArray[np.float64]
LEAST_IMAGES = 20
"""Fewer cannot support even a rate of 5%."""
NOMINAL = (0.05, 0.01, 1e-3, 1e-6)
"""The false-positive rates that are looked at."""
LEVEL = 0.001
"""A sound p-value is refused so often: a report makes two such decisions, a study hundreds."""
NO_POWER = 0.05
"""A mark whose surest reading clean images give more often than this proves nothing."""


@dataclass(frozen=True)
class Realised:
    """A false-positive rate that was promised and what came of it.

    Attributes:
        alpha: promised.
        events: clean images with p ≤ alpha, of `n`.
        ci: the realised rate's exact 95% interval, see :func:`grouped_interval`.
    """

    alpha: float
    events: int
    n: int
    ci: tuple[float, float]

    @property
    def rate(self) -> float:
        """Realised."""
        return self.events / self.n

    @classmethod
    def of(cls, p: Floats, alpha: float, groups: ArrayLike | None = None) -> Realised:
        """From the p-values of clean images."""
        events = p <= alpha
        return cls(alpha, int(events.sum()), len(p), grouped_interval(events, groups))


@dataclass(frozen=True)
class KeyRates:
    """The realised rate of many random keys where `alpha` is promised, by the nominal p-value.

    Attributes:
        mean: over `keys` random keys.
        worst, worst_ci: of the key that fires most; the interval is corrected for its having been
            picked among them (Bonferroni).
        zeros: of the key of zeros.
    """

    alpha: float
    keys: int
    mean: float
    worst: float
    worst_ci: tuple[float, float]
    zeros: float


@dataclass(frozen=True)
class NullReport:
    """What m clean images say of a statistic's p-values.

    Attributes:
        images: m; `groups` that they come from, where known.
        nominal: realised rates of the nominal p-value; `nominal_refusal`: why it is not to be used.
        held_out: realised rates of the calibrated p-value of one half of the images under the null
            of the other half.
        distance, uniformity: the two-sample Kolmogorov-Smirnov distance of the halves and its
            p-value: of no difference, which is uniformity of the calibrated p-values.
        refusal: why the calibration is not to be used.
        smallest_p: 1/(m + 1), the smallest calibrated p-value.
        smallest_shown: the upper bound of a rate with no event among m (95%, Clopper and Pearson):
            no smaller rate can be shown to be kept.
        dispersion: E(M − n/2)²/(n/4) of the agreeing bits M in each domain, 1 for fair coins.
        keys: of many random keys, for marks of bits.
    """

    images: int
    groups: int | None
    nominal: tuple[Realised, ...]
    nominal_refusal: str | None
    held_out: tuple[Realised, ...]
    distance: float
    uniformity: float
    refusal: str | None
    smallest_p: float
    smallest_shown: float
    dispersion: tuple[float, ...] = ()
    keys: tuple[KeyRates, ...] = ()

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any]) -> NullReport:
        """Of what `plain` gave.

        Raises:
            TypeError, ValueError: it is not that.
        """

        def realised(rows: list[dict[str, Any]]) -> tuple[Realised, ...]:
            return tuple(Realised(**{**row, "ci": _pair(row["ci"])}) for row in rows)

        keys = tuple(
            KeyRates(**{**row, "worst_ci": _pair(row["worst_ci"])}) for row in plain["keys"]
        )
        lists = {name: realised(plain[name]) for name in ("nominal", "held_out")}
        dispersion = tuple(float(value) for value in plain["dispersion"])
        report = cls(**{**plain, **lists, "keys": keys, "dispersion": dispersion})
        for reason in (report.refusal, report.nominal_refusal):
            if reason is not None and not isinstance(reason, str):
                raise TypeError("a refusal is a text or null")
        return report


def null_report(
    statistics: ArrayLike,
    nominal_p: ArrayLike,
    groups: ArrayLike | None = None,
    best: float | None = None,
    seed: int = 0,
) -> NullReport:
    """Hold the p-values of clean images to account.

    The nominal p-value is refused where it falls below any level more often than it may: by the
    one-sided Kolmogorov-Smirnov test or, in the tail, by the exact binomial test at each rate of
    `NOMINAL` (Bonferroni over the five, at `LEVEL`). Images of one group are no independent
    witnesses: the former test looks at one of each, the latter counts their effective number. The
    calibrated one is refused where one half
    of the images is not uniform under the other's null, ties broken at random. The halves are
    the first and the second half as the images come, so a population that changes on the way is
    noticed; with `groups`, whole groups drawn at random: it has to hold for groups it has not seen.

    Args:
        statistics, nominal_p: shape (m,), of clean images, in the order in which they came.
        groups: shape (m,), what an image comes from.
        best: the surest value that the statistic can take, where there is one.

    Raises:
        AuditError: fewer than `LEAST_IMAGES`.
    """
    s, p = np.asarray(statistics, dtype=float), np.asarray(nominal_p, dtype=float)
    m = len(s)
    if s.shape != p.shape or s.ndim != 1:
        raise ValueError(f"{s.shape} statistics but {p.shape} p-values")
    if m < LEAST_IMAGES:
        raise AuditError(f"{m} clean images are too few for a calibration: give {LEAST_IMAGES}")
    if not np.isfinite(s).all() or not ((p >= 0) & (p <= 1)).all():
        raise AuditError("a clean image has no finite statistic or no p-value in 0…1: leave it out")
    rng = np.random.default_rng(seed)
    first = _first_half(m, groups, rng)
    test = ks_2samp(*_untied(s, first, rng))
    held_out = _tail(s[first], s[~first])
    known = None if groups is None else np.asarray(groups)
    rest = None if known is None else known[~first]
    nominal = tuple(Realised.of(p, alpha, known) for alpha in NOMINAL)
    return NullReport(
        m,
        None if known is None else len(set(known.tolist())),
        nominal,
        _nominal_refusal(p, nominal, known, rng),
        tuple(Realised.of(held_out, alpha, rest) for alpha in NOMINAL),
        float(test.statistic),
        float(test.pvalue),
        _refusal(s, float(test.statistic), float(test.pvalue), groups is not None, best),
        1 / (m + 1),
        clopper_pearson(0, m)[1],
    )


def bit_report(
    decoded: Bits, bits: Bits, groups: ArrayLike | None = None, keys: int = 1000, seed: int = 0
) -> NullReport:
    """The report of a message, with its overdispersion and the worst of many random keys.

    Args:
        decoded: shape (m, domains, n), read from clean images.
        bits: the message, shape (n,).
    """
    domains, n = decoded.shape[1:]
    table = nominal_table(n, domains)
    own = folded(decoded, bits[None])[:, 0]
    report = null_report(own, table[own], groups, best=n, seed=seed)
    spread = ((agreement(decoded, bits) - n / 2) ** 2).mean(axis=0) / (n / 4)
    drawn = np.random.default_rng(seed).random((keys, n)) < 0.5
    p = table[folded(decoded, np.concatenate([np.zeros((1, n), bool), drawn]))]
    rates = tuple(_key_rates((p <= alpha).mean(axis=0), len(p), alpha) for alpha in NOMINAL)
    parts = {**vars(report), "dispersion": tuple(spread.tolist()), "keys": rates}
    return NullReport(**parts)


def nominal_table(n: int, domains: int) -> Floats:
    """The nominal p-value of 0 … n agreeing bits in the best of `domains` × 2 polarities."""
    return binomial_p(np.arange(n + 1), n, domains)


def grouped_interval(
    events: ArrayLike, groups: ArrayLike | None, level: float = 0.95
) -> tuple[float, float]:
    """Clopper and Pearson's interval of a rate, on the effective number of images where they come
    in groups (Korn and Graubard 1998; the design effect is that of :func:`audit.statistics.rate`).

    >>> groups = ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    >>> low, _ = grouped_interval([True] * 4 + [False] * 8, groups)
    >>> alone, _ = grouped_interval([True] * 4 + [False] * 8, None)
    >>> low < 0.001, round(alone, 3)
    (True, 0.099)
    """
    found = rate(events, groups, level)
    if found.estimate is None:
        return (0.0, 1.0)
    return clopper_pearson(found.estimate * found.effective_n, found.effective_n, level)


def _first_half(m: int, groups: ArrayLike | None, rng: np.random.Generator) -> NDArray[np.bool_]:
    if groups is None:
        return np.arange(m) < m // 2
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    if len(index) != m or index.max() == 0:
        raise AuditError(f"{m} clean images need as many groups, of at least two kinds")
    order = rng.permutation(index.max() + 1)
    return np.isin(index, order[: len(order) // 2])


def _untied(s: Floats, first: NDArray[np.bool_], rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Ranks of both halves, equal values in random order: the test then is exact for any law."""
    ranks = np.empty(len(s))
    ranks[np.lexsort((rng.random(len(s)), s))] = np.arange(len(s))
    return ranks[first], ranks[~first]


def _tail(null: Floats, held_out: Floats) -> Floats:
    """(1 + #{null ≥ s})/(m + 1)."""
    at_least = len(null) - np.searchsorted(np.sort(null), held_out, side="left")
    p: Floats = (1 + at_least) / (len(null) + 1)
    return p


def _nominal_refusal(
    p: Floats,
    realised: tuple[Realised, ...],
    groups: NDArray[np.generic] | None,
    rng: np.random.Generator,
) -> str | None:
    level = LEVEL / (len(realised) + 1)
    for one in realised[::-1]:
        # The lower end of a two-sided interval is the one-sided exact test at half its error.
        if grouped_interval(p <= one.alpha, groups, 1 - 2 * level)[0] > one.alpha:
            return (
                f"it promises {one.alpha:g} and fires on {one.events} of {one.n} clean images "
                f"({one.rate:.2g}, 95% {one.ci[0]:.2g} to {one.ci[1]:.2g})"
            )
    order = rng.permutation(len(p))
    single = p if groups is None else p[order[np.unique(groups[order], return_index=True)[1]]]
    test = kstest(single, "uniform", alternative="greater")
    if test.pvalue < level:
        return (
            f"it falls below {test.statistic_location:.2g} for "
            f"{(single <= test.statistic_location).mean():.2g} of {len(single)} clean images"
        )
    return None


def _refusal(
    s: Floats, distance: float, uniformity: float, grouped: bool, best: float | None
) -> str | None:
    top = s.max() if best is None else best
    share = float((s >= top).mean())
    if share > NO_POWER:
        return (
            f"{share:.0%} of the clean images have the surest reading there is: it proves nothing"
        )
    if uniformity < LEVEL:
        halves = "two halves of the groups" if grouped else "the first and the second half"
        todo = "give images of more groups" if grouped else "calibrate each population by itself"
        return (
            f"calibrated p-values are not uniform: {halves} of the clean images differ "
            f"(Kolmogorov-Smirnov distance {distance:.2f}, p = {uniformity:.1g}); {todo}"
        )
    return None


def _key_rates(rates: Floats, m: int, alpha: float) -> KeyRates:
    zeros, drawn = float(rates[0]), rates[1:]
    worst = float(drawn.max())
    ci = clopper_pearson(round(worst * m), m, 1 - 0.05 / len(drawn))
    return KeyRates(alpha, len(drawn), float(drawn.mean()), worst, ci, zeros)


def _pair(values: Any) -> tuple[float, float]:
    low, high = values
    return float(low), float(high)
