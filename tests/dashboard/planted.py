"""A run in the making: what is asked, the drawing made for it, and what detectors said of that."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image, ImageDraw

from audit.evidence import Analysis
from audit.plan import Request, Use
from audit.store import SCHEMA_VERSION, Run, column_safe

COLOURS = ("#c0504d", "#4f81bd", "#9bbb59", "#8064a2", "#f79646", "#4bacc6")
BATCH = 16


def drawing(number: int, side: int = 64) -> Image.Image:
    """A figure on a ground, another for every number."""
    dice = random.Random(number)
    image = Image.new("RGB", (side, side), dice.choice(COLOURS))
    pen = ImageDraw.Draw(image)
    pen.ellipse((20, 8, 44, 32), fill=(60 + dice.randrange(180), 150, 110))
    pen.rectangle((16, 34, 48, 62), fill=dice.choice(COLOURS), outline="black")
    pen.line((dice.randrange(side), 0, dice.randrange(side), side), fill="white", width=2)
    return image


class Planted:
    """Rows of a run, written when all are there.

    Attributes:
        requests: id → request, in the order asked.
        images: request → hash of its image; ``None`` where it failed.
    """

    def __init__(self, folder: Path) -> None:
        self.run = Run.create(folder)
        self.requests: dict[str, Request] = {}
        self.images: dict[str, str | None] = {}
        self.uses: dict[str, list[dict[str, Any]]] = {}
        self._records: list[dict[str, Any]] = []
        self._scores: dict[str, list[dict[str, Any]]] = {}
        self._drawn: dict[int, str] = {}

    def ask(self, probe: str, uses: Iterable[Use]) -> None:
        """What a probe asks for."""
        for use in uses:
            self.requests.setdefault(use.request.id, use.request)
            row = {"request": use.request.id, "text": use.text, **use.tags}
            self.uses.setdefault(probe, []).append(row)

    def make(self, request: Request, number: int | None, **more: Any) -> None:
        """The drawing `number` as its image; ``None``: it failed."""
        row = {"request": request.id, "image": None, "outcome": "failed", "error": "out of memory"}
        if number is not None:
            if number not in self._drawn:
                self._drawn[number] = self.run.save_image(drawing(number))
            row |= {"image": self._drawn[number], "outcome": "ok", "error": ""}
        self.images[request.id] = row["image"]
        self._records.append(row | more)

    def score(self, detector: str, request: Request, **columns: Any) -> None:
        """What a detector says of the request's image."""
        row = {"request": request.id, "image": self.images[request.id], **columns}
        self._scores.setdefault(detector, []).append(row)

    def write(self, **about: Any) -> Run:
        """The tables, and run.json with `about`."""
        plan = [
            {"request": key, **asdict(request), "batch": at // BATCH, "slot": at % BATCH}
            for at, (key, request) in enumerate(self.requests.items())
        ]
        self.run.write_table("plan", pd.DataFrame(plan))
        for probe, rows in self.uses.items():
            self.run.write_table(f"uses/{column_safe(probe)}", pd.DataFrame(rows))
        for start in range(0, len(self._records), BATCH):
            batch = pd.DataFrame(self._records[start : start + BATCH])
            self.run.write_part("records", start // BATCH, batch)
        for detector, rows in self._scores.items():
            self.run.write_part(f"detections/{detector}", 0, pd.DataFrame(rows))
        described = {"schema_version": SCHEMA_VERSION, "model": "planted", "suite": "planted"}
        self.run.write_json("run.json", described | about)
        return self.run


def write_analyses(run: Run, analyses: Mapping[str, Analysis]) -> None:
    """Tables and findings as the engine writes them."""
    for name, analysis in analyses.items():
        for table, frame in analysis.tables.items():
            run.write_table(f"tables/{column_safe(name)}.{table}", frame)
    findings = [finding for analysis in analyses.values() for finding in analysis.findings]
    run.write_json("findings.json", [finding.as_dict() for finding in findings])
