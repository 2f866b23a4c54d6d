"""What the benchmarks share: fair timing, rows, and a table."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One measured number.

    Attributes:
        name: what was measured.
        value: a number; ``None`` where it could not be measured here.
        unit: of `value`, with its spread.
        against: what it is compared with.
        aim: what it should be.
        met: whether it is; ``None`` without an aim or a value.
        unmeasured_because: why there is no value.
    """

    name: str
    value: float | None
    unit: str
    against: str = ""
    aim: str = ""
    met: bool | None = None
    unmeasured_because: str = ""


def at_least(name: str, value: float, aim: float, unit: str, against: str = "") -> Row:
    """A row whose value should reach `aim`."""
    return Row(name, value, unit, against, f"≥ {aim:g}", value >= aim)


def at_most(name: str, value: float, aim: float, unit: str, against: str = "") -> Row:
    """A row whose value should not pass `aim`."""
    return Row(name, value, unit, against, f"≤ {aim:g}", value <= aim)


class Timings:
    """Seconds of several competitors, taken in turns so that all see the same machine.

    Args:
        competitors: name → what to time; called with the number of the round. Every one is called
            once before, unmeasured.
        rounds: how many turns.
        clock: seconds; processor time by default, which a shared machine disturbs least.
    """

    def __init__(
        self,
        competitors: Mapping[str, Callable[[int], Any]],
        rounds: int,
        clock: Callable[[], float] = time.process_time,
    ) -> None:
        self.seconds: dict[str, list[float]] = {name: [] for name in competitors}
        self.wall: dict[str, list[float]] = {name: [] for name in competitors}
        for work in competitors.values():
            work(-1)
        for number in range(rounds):
            for name, work in competitors.items():
                wall, start = time.perf_counter(), clock()
                work(number)
                self.seconds[name].append(clock() - start)
                self.wall[name].append(time.perf_counter() - wall)

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratio(self, slow: str, fast: str) -> tuple[float, str]:
        """How many times as fast `fast` is: median over the rounds, and the range in words."""
        return _ratio(self.seconds[slow], self.seconds[fast])

    def wall_ratio(self, slow: str, fast: str) -> tuple[float, str]:
        """The same by the clock on the wall."""
        return _ratio(self.wall[slow], self.wall[fast])


def _ratio(slow: list[float], fast: list[float]) -> tuple[float, str]:
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} rounds"
    return statistics.median(ratios), f"× ({spread})"


def machine() -> dict[str, Any]:
    """The machine and the day, in general words."""
    import torch

    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load before": round(os.getloadavg()[2], 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "diffusers", "transformers")},
    }


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| what | value | against | aim | met |", "|---|---|---|---|---|"]
    for row in rows:
        value = (
            f"unmeasured: {row.unmeasured_because}"
            if row.value is None
            else f"{row.value:.4g} {row.unit}"
        )
        met = {True: "yes", False: "**no**", None: ""}[row.met]
        lines.append(f"| {row.name} | {value} | {row.against} | {row.aim} | {met} |")
    return "\n".join(lines)


def report(rows: list[Row], described: Mapping[str, Any], json_file: Path | None) -> str:
    """The table with the machine below it; the rows go to `json_file` too."""
    if json_file:
        json_file.write_text(
            json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n",
            encoding="utf-8",
        )
    said = ", ".join(f"{name} {value}" for name, value in described.items())
    return f"{table(rows)}\n\nMeasured on: {said}.\n"
