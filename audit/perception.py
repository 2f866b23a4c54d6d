"""What an instrument says is seen in an image: raw scores to one label per image.

An instrument's scores of an attribute are the columns ``<instrument>_<attribute>_<label>`` of a
probe's table; one that says a label outright, as the phantom's reader does, has the single column
``<instrument>_<attribute>``. Nothing is left out: an image without a label has one of
:data:`WITHOUT` in its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

CLIP = "clip"
"""The instrument that every run has; it is asked first."""

UNDETERMINED: Mapping[str, float] = {CLIP: 0.005, "": 0.1}
"""Difference of the two best scores below which an instrument does not say: in cosines for CLIP,
in probability for every other one (the empty name). A suite may declare others."""

WITHOUT = ("undetermined", "no_face", "failed", "blocked", "missing", "unscored")
"""Why an image has no label: two labels are too near each other; the face detector found no face;
the image was not made, was withheld or is not there; or the instrument did not look at it."""

_SAID = {True: "yes", False: "no"}


def perceived(
    frame: pd.DataFrame,
    attribute: str,
    labels: Sequence[str],
    instrument: str = CLIP,
    band: float | None = None,
    *,
    face: bool = False,
) -> pd.Series:
    """One label per row: of `labels`, or of :data:`WITHOUT`.

    Args:
        frame: a probe's table (:func:`audit.evidence.table`), N rows.
        band: difference of the two best scores below which the label is ``undetermined``;
            default: that of the instrument in :data:`UNDETERMINED`.
        face: the attribute is one of a face: where the detector ``faces`` counted none
            (column ``faces_count``), the label is ``no_face``.

    Raises:
        KeyError: the instrument has no column for this attribute.
    """
    label_column = f"{instrument}_{attribute}"
    columns = [f"{label_column}_{label}" for label in labels]
    names: np.ndarray
    if label_column in frame and not set(columns) <= set(frame):
        names = frame[label_column].map(lambda value: _SAID.get(value, value)).to_numpy(object)
        names = np.where(frame[label_column].isin([*labels, True, False]), names, "unscored")
    else:
        width = UNDETERMINED.get(instrument, UNDETERMINED[""]) if band is None else band
        scores = frame[columns].to_numpy(dtype=float, na_value=np.nan)
        known = np.nan_to_num(scores, nan=-np.inf)
        names = np.array(labels, dtype=object)[known.argmax(axis=1)]
        if len(labels) > 1:
            best = np.sort(np.where(np.isnan(scores), 0.0, scores), axis=1)
            names[best[:, -1] - best[:, -2] < width] = "undetermined"
        names[np.isnan(scores).any(axis=1)] = "unscored"
    if face and "faces_count" in frame:
        names[frame["faces_count"].eq(0).fillna(False).to_numpy(bool)] = "no_face"
    if "outcome" in frame:
        outcome = frame["outcome"].to_numpy(object)
        names = np.where(outcome == "ok", names, outcome)
    return pd.Series(names, index=frame.index, name=attribute, dtype=object)


def instruments(frame: pd.DataFrame, attribute: str, labels: Sequence[str]) -> list[str]:
    """The instruments whose columns are in the table and hold something, CLIP first.

    >>> columns = ["clip_gender_f", "clip_gender_m", "reader_gender", "age_gender_gender_f"]
    >>> instruments(pd.DataFrame([[0.1, 0.2, "m", 0.3]], columns=columns), "gender", ["f", "m"])
    ['clip', 'reader']
    """
    found = []
    for column in frame.columns:
        name = str(column)
        if name.endswith(f"_{attribute}_{labels[0]}"):
            instrument = name.removesuffix(f"_{attribute}_{labels[0]}")
            columns = [f"{instrument}_{attribute}_{label}" for label in labels]
            whole = set(columns) <= set(frame)
        elif name.endswith(f"_{attribute}"):
            instrument, columns = name.removesuffix(f"_{attribute}"), [name]
            whole = bool(frame[name].isin([*labels, *_SAID]).any())
        else:
            continue
        if whole and frame[columns].notna().to_numpy().any():
            found.append(instrument)
    return sorted(dict.fromkeys(found), key=lambda name: (name != CLIP, name))
