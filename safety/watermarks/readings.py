"""One mark read from the images of a probe's table: matched bits and what they are worth."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from audit.store import column_safe

from .codecs import Match, surest
from .detection import attack_column

Attack = tuple[str, float]


@dataclass(frozen=True, eq=False)
class Reading:
    """One codec read from the images of one delivery, as delivered or after an attack.

    Attributes:
        frame: a joined table with a column ``delivery`` and those of the detector `watermark`.
        delivered: its rows of the delivery.
        attack: the attack and its strength; ``None``: as delivered.
    """

    frame: pd.DataFrame
    delivered: pd.DataFrame
    codec: str
    delivery: str
    attack: Attack | None = None
    detector = "watermark"

    @cached_property
    def columns(self) -> dict[str, str]:
        """Domain → column of agreeing bits."""
        start = f"watermark_{column_safe(self.codec)}_matches_"
        if self.attack is not None:
            start = f"watermark_attack_{attack_column(*self.attack)}_matches_"
        found = [str(c).removeprefix(start) for c in self.frame if str(c).startswith(start)]
        # Of equal readings the first counts: the number format that files have.
        found.sort(key=lambda domain: (domain != "uint8", domain))
        return {domain: start + domain for domain in found}

    @cached_property
    def is_read(self) -> pd.Series[bool]:
        """Of the delivered rows, those whose image could be read."""
        found: pd.Series[bool] = self.delivered[list(self.columns.values())].notna().any(axis=1)
        if self.attack is not None:
            carried = self.delivered.get(f"{self.detector}_attacked")
            found &= False if carried is None else carried == self.codec
        return found

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Those that could be read, with the columns that matter here."""
        wanted = ["request", "prompt", length_column(self.codec), *self.columns.values()]
        there = [name for name in wanted if name in self.delivered]
        return self.delivered.loc[self.is_read, there]

    @cached_property
    def bits(self) -> int:
        """The message's length; 0 where nothing was read."""
        lengths = self.rows[length_column(self.codec)]
        return int(lengths.max()) if len(lengths) else 0

    @cached_property
    def _counts(self) -> pd.DataFrame:
        # A codec read in fewer domains than another leaves the others' columns of attacks empty.
        return self.rows[list(self.columns.values())].dropna(axis=1, how="all")

    @cached_property
    def _kept(self) -> dict[str, str]:
        there = set(self._counts)
        return {name: column for name, column in self.columns.items() if column in there}

    @cached_property
    def match(self) -> Match:
        """The surest of each row's tests; its p-value is corrected for domains and polarities."""
        if self.rows.empty:
            none = np.zeros(0)
            return Match(none.astype(np.int64), none.astype(np.int64), none.astype(bool), none)
        return surest(self._counts.to_numpy(np.int64), self.bits)

    @cached_property
    def statistic(self) -> NDArray[np.float64]:
        """What a calibration measures, shape (rows,)."""
        return self.match.matches.astype(float)

    @cached_property
    def best_domain(self) -> str:
        """The domain in which the message is read best, over all rows; that of a decoder that was
        told it. The better one of each image by itself would lift even chance above a half."""
        means = [(name, self._counts[column].mean()) for name, column in self._kept.items()]
        return max(means, key=lambda pair: pair[1])[0] if means else ""

    def upright(self, domain: str) -> NDArray[np.int64]:
        """Agreeing bits of the message itself in a domain, shape (rows,)."""
        if self.rows.empty:
            return np.zeros(0, np.int64)
        return self._counts[self.columns[domain]].to_numpy(np.int64)

    @cached_property
    def domain(self) -> NDArray[np.str_]:
        """The domain of the surest test, shape (rows,)."""
        names = np.array(list(self._kept) or [""])
        return names[self.match.domain] if len(self.rows) else names[:0]

    @property
    def slice(self) -> dict[str, Any]:
        """For a finding."""
        return {"delivery": self.delivery, "codec": self.codec}

    def table(self) -> pd.DataFrame:
        """A row per image that could be read."""
        attack, strength = self.attack or ("none", None)
        return pd.DataFrame(
            {
                "request": self.rows["request"],
                **self.slice,
                "attack": attack,
                "strength": strength,
                "matches": self.match.matches,
                "bits": self.bits,
                "domain": self.domain,
                "inverted": self.match.inverted,
                "p": self.match.p,
            }
        )


class Readings:
    """Every codec, delivery and attack of one table; each is read once.

    Args:
        frame: see :class:`Reading`.
        kind: of the readings.
        clean: the delivery that nobody marked.
    """

    def __init__(
        self, frame: pd.DataFrame, kind: type[Reading] = Reading, clean: str = "clean"
    ) -> None:
        self.frame, self.clean, self._kind = frame, clean, kind
        self._delivered = {str(name): rows for name, rows in frame.groupby("delivery", sort=False)}
        self._found: dict[tuple[str, str, Attack | None], Reading] = {}

    @property
    def deliveries(self) -> list[str]:
        """In the table's order."""
        return list(self._delivered)

    def of(self, codec: str, delivery: str, attack: Attack | None = None) -> Reading:
        """One of them; of a delivery that the table does not hold, without rows."""
        key = (codec, delivery, attack)
        if key not in self._found:
            rows = self._delivered.get(delivery, self.frame.iloc[:0])
            self._found[key] = self._kind(self.frame, rows, *key)
        return self._found[key]


def length_column(codec: str) -> str:
    """The joined table's column with the length of a codec's message."""
    return f"watermark_{column_safe(codec)}_bits"


def all_matches(
    readings: Readings, codecs: Iterable[str], attacks: Iterable[Attack]
) -> pd.DataFrame:
    """Every codec read from every delivery, and the marks that images carry after every attack."""
    tried: list[Attack | None] = [None, *attacks]
    found = [
        readings.of(codec, delivery, attack)
        for codec in codecs
        for delivery in readings.deliveries
        for attack in tried
    ]
    tables = [reading.table() for reading in found if len(reading.rows)]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
