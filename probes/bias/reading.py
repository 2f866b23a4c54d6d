"""What is read of the probe's table, what is perceived in it, and counts by prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from audit.evidence import table
from audit.perception import CLIP, WITHOUT, instruments, perceived
from audit.store import Run
from safety.filters.decisions import FILTERS

from .settings import Attribute, Settings

Floats = NDArray[np.float64]

PROBE = "demographics"
READ = frozenset(
    {
        *("subject", "group", "template", "identity", "dimension", "coded", "arm", "index"),
        *("text", "prompt", "outcome"),
        *("clip_alignment", "faces_count", "faces_confidence"),
        *(name for filter in FILTERS for name in (filter.score, filter.decision)),
    }
)
"""Columns that some estimand here reads, besides the instruments' of the attributes."""


@dataclass(frozen=True)
class Units:
    """Base prompts with what is perceived in their images; P prompts, K labels.

    Attributes:
        about: shape (P, 3): subject, template, prompt.
        slices: of the findings: the subject, and the wording where it has several.
        counts: shape (P, K), images of each label.
        without: shape (P, len(WITHOUT)), images without a label, by reason.
        reference: shape (P,), of the positive label's share; with its `names`.
        several: shape (P,), images with several faces.
        rows: prompt → the positions of its rows in the frame.
    """

    attribute: Attribute
    about: pd.DataFrame
    slices: list[dict[str, Any]]
    counts: Floats
    without: Floats
    reference: Floats
    names: tuple[str, ...]
    several: Floats
    rows: tuple[NDArray[np.intp], ...]

    @property
    def hits(self) -> Floats:
        """Images of the positive label, shape (P,)."""
        found: Floats = self.counts[:, self.attribute.at]
        return found

    @property
    def n(self) -> Floats:
        """Images with a label, shape (P,)."""
        total: Floats = self.counts.sum(axis=1)
        return total

    @property
    def tried(self) -> Floats:
        """Images that were tried, shape (P,): a failed or blocked one is an outcome."""
        missing = self.without[:, WITHOUT.index("missing")]
        found: Floats = self.n + self.without.sum(axis=1) - missing
        return found

    def outcomes(self, at: int) -> dict[str, int]:
        """Every label and reason of one prompt with its number of images, and several faces."""
        named = dict(zip(self.attribute.labels, self.counts[at], strict=True))
        named |= dict(zip(WITHOUT, self.without[at], strict=True))
        named |= {"several_faces": self.several[at]}
        return {name: int(number) for name, number in named.items() if number}


def load(run: Run, asked: Settings | None = None) -> pd.DataFrame:
    """The columns of the probe's table that some estimand here reads: the rest of a wide table is
    most of what an analysis would hold.

    Where an attribute is also measured (a skin tone on the Monk scale), the label of the measure is
    the column ``<detector>_<attribute>``, so that the detector is an instrument like any other.
    """
    attributes = asked.attributes if asked else ()
    read = {*READ, *(column for attribute in attributes for column in attribute.measured)}
    if asked and asked.section.get("labels"):  # which name their images by these
        read |= {"request", "image"}
    ends = tuple(
        f"_{name}"
        for attribute in attributes
        for name in (attribute.name, *(f"{attribute.name}_{label}" for label in attribute.labels))
    )
    frame = table(run, PROBE, lambda column: column in read or column.endswith(ends))
    if frame.empty:
        return frame
    if "prompt" not in frame:  # a table without a plan: what was asked is its text
        frame["prompt"] = frame["text"]
    for attribute in attributes:
        for column, bands in attribute.measured.items():
            if column in frame:
                values = frame[column].to_numpy(dtype=float, na_value=np.nan)
                labels = np.full(len(frame), None, dtype=object)
                for label, (low, high) in bands.items():
                    labels[(values >= low) & (values <= high)] = str(label)
                frame[f"{column.rpartition('_')[0]}_{attribute.name}"] = labels
    return frame


def with_instrument(frame: pd.DataFrame, attribute: Attribute) -> Attribute | None:
    """The attribute with the instrument whose labels are counted; ``None``: it has read nothing."""
    there = instruments(frame, attribute.name, attribute.labels)
    chosen = attribute.instrument or next(iter(there), "")
    return replace(attribute, instrument=chosen) if chosen in there else None


def said(
    frame: pd.DataFrame, attribute: Attribute, settings: Settings, instrument: str = ""
) -> pd.Series:
    """What an instrument says of every row; by default the attribute's own."""
    instrument = instrument or attribute.instrument or CLIP
    return perceived(
        frame,
        attribute.name,
        attribute.labels,
        instrument,
        settings.band(instrument),
        face=attribute.face,
    )


def units(
    frame: pd.DataFrame, labels: pd.Series, attribute: Attribute, settings: Settings
) -> Units:
    """Counts of the base prompts.

    Args:
        labels: what is perceived in each row of `frame`.
    """
    base = (frame["arm"] == "base").to_numpy()
    keys = frame.loc[base, ["subject", "template", "prompt"]]
    grouped = keys.groupby(["subject", "template"], sort=False)
    index = grouped.ngroup().to_numpy()
    about = grouped.first().reset_index()
    columns = [*attribute.labels, *WITHOUT]
    codes = pd.Index(columns).get_indexer(pd.Index(labels[base]))
    counts = np.zeros((len(about), len(columns)))
    np.add.at(counts, (index[codes >= 0], codes[codes >= 0]), 1)
    several = np.zeros(len(about))
    if attribute.face and "faces_count" in frame:
        crowd = frame.loc[base, "faces_count"].gt(1).fillna(False).to_numpy(bool)
        several = np.bincount(index[crowd], minlength=len(about)).astype(float)
    alone = about.groupby("subject")["template"].transform("size") == 1
    slices: list[dict[str, Any]] = [
        {"subject": s} if single else {"subject": s, "template": t}
        for s, t, single in zip(about["subject"], about["template"], alone, strict=True)
    ]
    found = [settings.reference_of(str(subject), attribute) for subject in about["subject"]]
    order = np.argsort(index, kind="stable")
    starts = np.searchsorted(index[order], np.arange(len(about) + 1))
    places = np.flatnonzero(base)[order]
    size = len(attribute.labels)
    return Units(
        attribute,
        about,
        slices,
        counts[:, :size],
        counts[:, size:],
        np.array([share for share, _ in found]),
        tuple(name for _, name in found),
        several,
        tuple(places[a:b] for a, b in pairwise(starts)),
    )


def evidence(about: Mapping[str, object]) -> dict[str, object]:
    """The query that selects one prompt's images."""
    return {**about, "arm": "base"}
