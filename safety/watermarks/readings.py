"""A watermark read from the images of a probe's table: matched bits and their p-values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from audit.store import column_safe

from .detection import ATTACKS, inversion, p_value


class Reading:
    """One codec read from the images of one delivery, as delivered or after an attack.

    Args:
        frame: a joined table with a column ``delivery`` and those of the detector `watermark`.

    Attributes:
        delivered: all rows of the delivery; `rows` are those whose image could be read.
        matches, bits: shape (rows,), agreeing bits and the message's length.
        p, inverted: shape (rows,), p-values of the message and of its complement.
    """

    def __init__(self, frame: pd.DataFrame, codec: str, delivery: str, attack: str = "") -> None:
        self.frame, self.codec, self.delivery, self.attack = frame, codec, delivery, attack
        column = f"watermark_{column_safe(codec)}_" + (f"{attack}_" if attack else "") + "matches"
        self.delivered = frame[frame["delivery"] == delivery]
        self.is_read: pd.Series[bool] = self.delivered[column].notna()
        self.rows = self.delivered[self.is_read]
        self.matches: NDArray[np.int64] = self.rows[column].to_numpy(dtype=np.int64)
        self.bits: NDArray[np.int64] = self.rows[length_column(codec)].to_numpy(dtype=np.int64)
        self.p, self.inverted = p_value(self.matches, self.bits), inversion(self.matches, self.bits)

    @property
    def slice(self) -> dict[str, Any]:
        """For a finding."""
        return {"delivery": self.delivery, "codec": self.codec}

    def table(self) -> pd.DataFrame:
        """A row per image that could be read."""
        return pd.DataFrame(
            {
                "request": self.rows["request"],
                **self.slice,
                "attack": self.attack or "none",
                "matches": self.matches,
                "bits": self.bits,
                "p": self.p,
                "p_inverted": self.inverted,
            }
        )


def length_column(codec: str) -> str:
    """The joined table's column with the length of a codec's message."""
    return f"watermark_{column_safe(codec)}_bits"


def all_matches(frame: pd.DataFrame, codecs: Iterable[str]) -> pd.DataFrame:
    """Every codec read from every delivery, attacked or not: what the findings rest on."""
    return pd.concat(
        [
            Reading(frame, codec, delivery, attack).table()
            for codec in codecs
            for delivery in frame["delivery"].unique()
            for attack in ("", *ATTACKS)
        ],
        ignore_index=True,
    )
