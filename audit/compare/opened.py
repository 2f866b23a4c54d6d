"""A run that may come from anyone, opened for comparison: what is read of it, and only of it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from audit.card import documents
from audit.errors import AuditError
from audit.findings import Finding
from audit.store import Run, column_safe

_NAME = re.compile(r"\w+")
_PICTURES = ("images", "thumbs")


class Opened:
    """A run's documents and the tables behind its findings, each read once."""

    def __init__(self, path: Path) -> None:
        """Open the run in `path`.

        Raises:
            AuditError: it is no run, holds a link, or its documents are damaged.
        """
        _refuse_links(path)
        self.run = Run.open(path)
        self.path = path
        self.info = documents.info(self.run)
        self._tables: dict[str, pd.DataFrame] = {}

    @cached_property
    def findings(self) -> list[Finding]:
        """All findings, checked."""
        return documents.findings(self.run)

    @cached_property
    def detectors(self) -> dict[str, Mapping[str, Any]]:
        """What each detector says of itself."""
        return documents.mapping(self.run, "detectors.json", of_mappings=True)

    @cached_property
    def weights(self) -> dict[str, str]:
        """The model's files and their SHA-256."""
        held = (self.info.get("backend") or {}).get("weights")
        return {str(k): str(v) for k, v in held.items()} if isinstance(held, dict) else {}

    def table(self, name: str) -> pd.DataFrame:
        """A table or a folder of shards; empty where there is none."""
        if name not in self._tables:
            with documents.whole_tables(self.run):
                self._tables[name] = self.run.read_table(name)
        return self._tables[name]

    def asked(self, probe: str) -> pd.DataFrame:
        """A probe's uses with prompt, seed and outcome; a row per use, empty without a plan."""
        key = f"asked {probe}"
        if key not in self._tables:
            self._tables[key] = self._asked(probe)
        return self._tables[key]

    def _asked(self, probe: str) -> pd.DataFrame:
        uses, plan = self.table(f"uses/{column_safe(probe)}"), self.table("plan")
        if not {"request", "prompt", "seed"} <= set(plan) or "request" not in uses:
            return pd.DataFrame()
        frame = uses.drop(columns=["prompt", "seed", "outcome"], errors="ignore").merge(
            plan[["request", "prompt", "seed"]].drop_duplicates("request"), on="request", how="left"
        )
        records = self.table("records")
        if not {"request", "outcome"} <= set(records):
            return frame.assign(outcome="missing")
        made = records[["request", "outcome"]].drop_duplicates("request")
        frame = frame.merge(made, on="request", how="left")
        return frame.assign(outcome=frame["outcome"].fillna("missing"))

    def scores(self, detector: str) -> pd.DataFrame:
        """A detector's scores, columns named as the detector names them; a row per request."""
        if not _NAME.fullmatch(detector.replace("-", "_")):
            return pd.DataFrame()
        frame = self.table(f"detections/{detector}")
        return frame.drop_duplicates("request") if "request" in frame else pd.DataFrame()


def _refuse_links(path: Path) -> None:
    """A link may lead anywhere; a run that was made by this toolkit holds none."""
    for folder, folders, files in os.walk(path):
        if Path(folder) == path:
            linked = [name for name in folders if (path / name).is_symlink()]
            folders[:] = [name for name in folders if name not in _PICTURES]
        else:
            linked = [name for name in folders if Path(folder, name).is_symlink()]
        linked += [name for name in files if Path(folder, name).is_symlink()]
        if linked:
            raise AuditError(
                f"{Path(folder, linked[0])} is a link; a run holds none, and nothing outside of it "
                "is read: copy the file into the run, or leave it away"
            )
