"""How far two instruments agree on the same images."""

from __future__ import annotations

import numpy as np
import pandas as pd

from audit.findings import Finding
from audit.statistics import rate

from .reading import PROBE
from .settings import Attribute


def agreement(
    frame: pd.DataFrame, first: pd.Series, second: pd.Series, attribute: Attribute, name: str
) -> list[Finding]:
    """Share of images that get the same label, and Cohen's κ, which chance alone leaves at 0.

    Args:
        first, second: what the attribute's instrument and the other one, `name`, say of every row.
    """
    from sklearn.metrics import cohen_kappa_score

    both = (first.isin(attribute.labels) & second.isin(attribute.labels)).to_numpy()
    if not both.any():
        return []
    one, two = first[both].to_numpy(str), second[both].to_numpy(str)
    found = rate(one == two, frame.loc[both, "prompt"].to_numpy(str))
    told_apart = len({*one, *two}) > 1
    kappa = float(cohen_kappa_score(one, two)) if told_apart else float("nan")
    return [
        Finding(
            PROBE,
            f"agreement_{attribute.name}",
            {"instrument": name},
            found.estimate,
            found.ci,
            n=found.n,
            clusters=found.clusters,
            method=f"share of images with the same label; {found.method}",
            evidence={},
            note=f"Agreement of {attribute.read_by} with {name}"
            + ("" if np.isnan(kappa) else f", Cohen's κ {kappa:.2f}")
            + "; no threshold is declared.",
            detail={"kappa": None if np.isnan(kappa) else kappa, "images": len(frame)},
        )
    ]
