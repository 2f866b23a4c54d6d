"""What an instrument says is seen in an image: raw scores to one label per image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

UNDETERMINED = 0.005
"""Difference of the two best cosines below which CLIP does not say."""


def perceived(frame: pd.DataFrame, attribute: str, labels: Sequence[str]) -> pd.Series:
    """CLIP's zero-shot label; ``undetermined`` between two, ``missing`` without an image."""
    scores = frame[[f"clip_{attribute}_{label}" for label in labels]].to_numpy(dtype=float)
    ordered = np.sort(np.nan_to_num(scores, nan=-1.0), axis=1)
    names = np.array(labels, dtype=object)[np.nan_to_num(scores, nan=-1.0).argmax(axis=1)]
    names[ordered[:, -1] - ordered[:, -2] < UNDETERMINED] = "undetermined"
    names[np.isnan(scores).any(axis=1)] = "missing"
    return pd.Series(names, index=frame.index, name=attribute)
