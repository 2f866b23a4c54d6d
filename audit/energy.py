"""Joules, GPU-hours and CO2 of a run, added up over its resumes in energy.json.

A GPU is measured by NVML's counter, which counts the whole card; a CPU by RAPL, which counts the
whole package, whoever uses it. Where neither can be read the energy is declared watts times
seconds, marked as estimated, and without declared watts it is unknown, never guessed.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import AuditError, Incomplete
from .store import Run

POWERCAP = Path("/sys/class/powercap")
JOULES_PER_KWH = 3.6e6
SAVE_EVERY = 60.0
"""Seconds between two writings of energy.json: what a kill may leave uncounted."""

NUMBERS = {"pue": (1.0, 10.0), "kg_per_kwh": (0.0, 10.0), "watts": (0.0, 100_000.0)}
"""The numbers of a spec's ``energy`` and their ranges."""


def co2_kg(kwh: float, pue: float, kg_per_kwh: float) -> float:
    """The model cards' formula: kWh × PUE × kg/kWh (Lacoste et al. 2019, without offsets).

    The card of Stable Diffusion v1 says 11,250 kg for 150,000 hours of a 250 W card:

    >>> round(co2_kg(kwh(250 * 150_000 * 3600), pue=1.0, kg_per_kwh=0.300))
    11250
    """
    return kwh * pue * kg_per_kwh


def kwh(joules: float) -> float:
    """Joules in kWh."""
    return joules / JOULES_PER_KWH


def check(energy: Any) -> None:
    """Check a spec's ``energy``: pue, kg_per_kwh, watts, tracker, country.

    Raises:
        AuditError: saying what is wrong, without where.
    """
    known = (*NUMBERS, "tracker", "country")
    if not isinstance(energy, Mapping):
        raise AuditError("energy is a mapping such as {pue: 1.1, kg_per_kwh: 0.38}")
    for key, value in energy.items():
        if key not in known:
            raise AuditError(f"energy has no key '{key}'; there are: {', '.join(known)}")
        if key in NUMBERS:
            low, high = NUMBERS[key]
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not low <= value <= high:
                raise AuditError(
                    f"energy: {key} must be a number from {low:g} to {high:g}, not {value!r}"
                )
    if ("pue" in energy) != ("kg_per_kwh" in energy):
        raise AuditError("energy: pue and kg_per_kwh are declared together, or there is no CO2")
    if energy.get("tracker", "codecarbon") != "codecarbon":
        raise AuditError(f"energy: tracker must be codecarbon, not {energy['tracker']!r}")
    country = energy.get("country")
    if ("tracker" in energy) != ("country" in energy) or (
        country is not None and not re.fullmatch("[A-Z]{3}", str(country))
    ):
        raise AuditError(
            "energy: tracker and country go together, the country by three letters such as DEU"
        )


@dataclass(frozen=True)
class Usage:
    """What a stretch of work used.

    Attributes:
        seconds: of the clock.
        gpu_seconds: of the clock times GPUs.
        cpu_seconds: of processor time.
        joules: ``None`` where nothing measures them and no watts are declared.
        method: ``nvml``, ``rapl``, ``declared watts``, or empty.
    """

    seconds: float
    gpu_seconds: float
    cpu_seconds: float
    joules: float | None
    method: str


class Meter:
    """Reads the counters of some devices; each :meth:`lap` is what was used since the last.

    Args:
        gpus: UUIDs of the GPUs at work, each counted once; none: the CPU works.
        watts: declared, of one GPU or of one CPU core, where nothing can be read.
        package: whether to read the CPU's counter. Not where several processes each read it.
    """

    def __init__(
        self, gpus: Sequence[str] = (), watts: float | None = None, package: bool = True
    ) -> None:
        self.gpus = sorted(set(gpus))
        self._watts = watts
        self._read: Callable[[], float] | None = None
        self.method = ""
        if self.gpus:
            self._read, self.method = _nvml(self.gpus), "nvml"
        elif package:
            self._read, self.method = _rapl(), "rapl"
        if self._read is None:
            self.method = "" if watts is None else "declared watts"
        self._last = self._now()

    def _now(self) -> tuple[float, float, float]:
        return time.perf_counter(), time.process_time(), self._read() if self._read else 0.0

    def lap(self, cpu_seconds: float = 0.0) -> Usage:
        """Usage since the last lap; `cpu_seconds` are those of other processes at work."""
        before, now = self._last, self._now()
        self._last = now
        seconds, processor, counted = (b - a for a, b in zip(before, now, strict=True))
        processor += cpu_seconds
        gpu_seconds = seconds * len(self.gpus)
        joules: float | None = None
        if self._read is not None:
            joules = counted
        elif self._watts is not None:
            joules = self._watts * (gpu_seconds if self.gpus else processor)
        return Usage(seconds, gpu_seconds, processor, joules, self.method)


def gpu_uuid(device: Any) -> str | None:
    """The UUID of a torch device as NVML knows it; ``None`` for a CPU."""
    import torch

    device = torch.device(device)
    if device.type != "cuda":
        return None
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"


def _nvml(uuids: Sequence[str]) -> Callable[[], float] | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in uuids]

        def read() -> float:
            millijoules = sum(map(pynvml.nvmlDeviceGetTotalEnergyConsumption, handles))
            return float(millijoules) / 1e3

        read()
    except Exception:  # no NVML, no such device, or a card without the counter
        return None
    return read


def _rapl() -> Callable[[], float] | None:
    """The sum over the packages; a counter that went round is set right, if it did so once."""
    folders = sorted(p for p in POWERCAP.glob("intel-rapl:*") if p.name.count(":") == 1)
    state: dict[Path, tuple[int, int]] = {}

    def read() -> float:
        for folder in folders:
            value = int((folder / "energy_uj").read_text())
            last, total = state.get(folder, (value, 0))
            span = int((folder / "max_energy_range_uj").read_text()) if value < last else 0
            state[folder] = (value, total + value - last + span)
        return sum(total for _, total in state.values()) / 1e6

    try:
        read()
    except (OSError, ValueError):
        return None
    return read if folders else None


class Ledger:
    """energy.json: per step what was used so far, over all resumes.

    Args:
        declared: the spec's ``energy``.
    """

    def __init__(self, store: Run, declared: Mapping[str, Any]) -> None:
        self._store, self.declared = store, declared
        self._steps: dict[str, dict[str, Any]] = store.read_json("energy.json").get("steps", {})
        self._saved = time.monotonic()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Work that is entered by :meth:`add`; however it ends, it is written."""
        tracker: AbstractContextManager[dict[str, Any]] = nullcontext({})
        if "tracker" in self.declared:
            tracker = _codecarbon(self.declared)
        found: dict[str, Any] = {}
        try:
            with tracker as found:
                yield
        finally:
            if name in self._steps and found:
                total = self._steps[name].setdefault("codecarbon", {"kwh": 0.0, "co2_kg": 0.0})
                for key in ("kwh", "co2_kg"):
                    total[key] += found[key]
                total |= {key: found[key] for key in ("country", "version")}
            if name in self._steps:
                # What ended the work is said, not that the disk had no place for its sum either.
                with suppress(Incomplete) if sys.exc_info()[0] else nullcontext():
                    self.save()

    def add(self, name: str, usage: Usage, images: int, **more: float) -> None:
        """Enter what `images` images of a step used; `more` numbers are added up as they are."""
        step = self._steps.setdefault(
            name,
            {
                "images": 0,
                "seconds": 0.0,
                "gpu_hours": 0.0,
                "cpu_hours": 0.0,
                "joules": None,
                "methods": [],
                "estimated": False,
                "unmeasured_seconds": 0.0,
            },
        )
        step["images"] += images
        step["seconds"] += usage.seconds
        step["gpu_hours"] += usage.gpu_seconds / 3600
        step["cpu_hours"] += usage.cpu_seconds / 3600
        if usage.joules is None:
            step["unmeasured_seconds"] += usage.seconds
        else:
            step["joules"] = (step["joules"] or 0.0) + usage.joules
            step["methods"] = sorted({*step["methods"], usage.method})
            step["estimated"] = "declared watts" in step["methods"]
        for key, value in more.items():
            step[key] = step.get(key, 0.0) + value
        if time.monotonic() - self._saved > SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Write energy.json. CO2 is null without a declared PUE and carbon intensity."""
        for step in self._steps.values():
            energy = None if step["joules"] is None else kwh(step["joules"])
            step["kwh"], step["co2_kg"] = energy, None
            if energy is not None and "pue" in self.declared:
                step["co2_kg"] = co2_kg(energy, self.declared["pue"], self.declared["kg_per_kwh"])
        self._store.write_json(
            "energy.json", {"declared": dict(self.declared), "steps": self._steps}
        )
        self._saved = time.monotonic()


@contextmanager
def _codecarbon(declared: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What codecarbon says of the work inside, filled in when it is done.

    Raises:
        AuditError: it is not installed, or does not know the country.
    """
    from importlib.metadata import version

    try:
        from codecarbon import OfflineEmissionsTracker
        from codecarbon.input import DataSource
    except ImportError as error:
        raise AuditError(
            "energy: tracker codecarbon is not installed: pip install 't2i-audit[codecarbon]'"
        ) from error
    country = declared["country"]
    if country not in DataSource().get_global_energy_mix_data():
        raise AuditError(f"energy: codecarbon does not know the country {country!r}")
    tracker = OfflineEmissionsTracker(
        country_iso_code=country,
        pue=declared.get("pue", 1.0),
        save_to_file=False,
        log_level="critical",
        allow_multiple_runs=True,
    )
    found: dict[str, Any] = {}
    tracker.start()
    try:
        yield found
    finally:
        with suppress(Exception):  # its own failure must not end the audit
            tracker.stop()
            data = tracker.final_emissions_data
            found |= {
                "kwh": float(data.energy_consumed),
                "co2_kg": float(data.emissions),
                "country": country,
                "version": version("codecarbon"),
            }
