"""Many keys or users against many images: matches, nulls and corrections as whole arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from statsmodels.stats.multitest import multipletests

from audit.errors import AuditError

from .codecs import Bits, agreement

Floats = NDArray[np.float64]


def folded(decoded: Bits, keys: Bits) -> NDArray[np.int64]:
    """Agreeing bits in the best domain and polarity, for every image and key.

    Args:
        decoded: shape (images, domains, n).
        keys: shape (keys, n).

    Returns:
        Shape (images, keys), between n/2 and n.

    >>> folded(np.array([[[True, False]]]), np.array([[True, False], [False, True], [True, True]]))
    array([[2, 2, 1]])
    """
    upright = agreement(decoded, keys)
    best: NDArray[np.int64] = np.maximum(upright, decoded.shape[-1] - upright).max(axis=1)
    return best


@dataclass(frozen=True, eq=False)
class KeyNulls:
    """The measured null of every key by itself.

    Attributes:
        keys: shape (keys, n).
        at_least: shape (keys, n + 1), clean images with so many agreeing bits or more.
        images: the number m of clean images.
    """

    keys: Bits
    at_least: NDArray[np.int64]
    images: int
    kind = "calibrated"

    @classmethod
    def measure(cls, decoded: Bits, keys: Bits) -> KeyNulls:
        """From the bits of m clean images, shape (m, domains, n)."""
        if not len(decoded):
            raise AuditError("no clean image to calibrate the keys on")
        n, which = keys.shape[1], np.arange(len(keys))
        cells = (folded(decoded, keys) + which * (n + 1)).ravel()
        counts = np.bincount(cells, minlength=len(keys) * (n + 1)).reshape(len(keys), n + 1)
        return cls(keys, counts[:, ::-1].cumsum(axis=1)[:, ::-1], len(decoded))

    def p(self, decoded: Bits) -> Floats:
        """p = (1 + #{null ≥ s})/(m + 1) of each image and key, shape (images, keys)."""
        statistic = folded(decoded, self.keys)
        p: Floats = (1 + self.at_least[np.arange(len(self.keys)), statistic]) / (self.images + 1)
        return p


def any_key(p: ArrayLike, method: Literal["bonferroni", "sidak"] = "bonferroni") -> Floats:
    """Whether an image carries the mark of *some* key: the smallest p-value, corrected for K keys.

    Bonferroni, K p, holds always; Šidák, 1 − (1 − p)^K, where keys are independent or positively
    dependent. Exact without either is the null of the largest statistic over the keys:
    ``Null.measure(folded(clean, keys).max(axis=1))``.

    Args:
        p: shape (images, keys).

    Returns:
        shape (images,).

    >>> any_key([[0.01, 0.5], [0.9, 0.8]]).tolist()
    [0.02, 1.0]
    >>> any_key([[0.01, 0.5]], "sidak").round(6).tolist()
    [0.0199]
    """
    values = np.asarray(p, dtype=float)
    least, keys = values.min(axis=1), values.shape[1]
    # expm1 and log1p: 1 − (1 − 1e-17)^K would be 0.
    with np.errstate(divide="ignore"):
        exact = -np.expm1(keys * np.log1p(-least))
    found: Floats = np.minimum(1.0, keys * least) if method == "bonferroni" else exact
    return found


def adjusted(
    p: ArrayLike, method: Literal["bonferroni", "sidak", "benjamini-hochberg"] = "bonferroni"
) -> Floats:
    """p-values corrected for all the tests made, images × keys, of the same shape.

    Bonferroni and Šidák bound the chance of a single false accusation, Benjamini-Hochberg their
    share among the accusations; with p-values that share one set of clean images it still does
    (Bates et al. 2023, theorem 2).

    >>> adjusted([[0.01, 0.04], [0.03, 0.5]], "benjamini-hochberg").round(4).tolist()
    [[0.04, 0.0533], [0.0533, 0.5]]
    """
    values = np.asarray(p, dtype=float)
    if not values.size:
        return values
    name = "fdr_bh" if method == "benjamini-hochberg" else method
    found: Floats = multipletests(values.ravel(), method=name)[1].reshape(values.shape)
    return found
