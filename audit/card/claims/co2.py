"""The CO2 of a card, recomputed from its own hardware, hours and region.

Power × time × carbon intensity of the grid, as the calculator does that the cards cite. A name that
leaves the device or the region open gives a range.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from audit.energy import co2_kg, kwh

from .grid import regions, watts
from .judging import Judged, Outcome
from .reading import Document, Statement

TOLERANCE = 0.05
"""What rounding and later versions of the calculator's tables may make of a figure."""

_NUMBER = r"(\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?|\.\d+)\s*(k\b|thousand|million)?"
_UNITS = {"kg": 1.0, "kilogram": 1.0, "g": 1e-3, "gram": 1e-3, "t": 1e3, "ton": 1e3, "tonne": 1e3,
          "metric ton": 1e3, "lb": 0.45359237}  # fmt: skip
_MASS = re.compile(
    rf"{_NUMBER}\s*(kg|kilogram|gram|g|metric ton|tonne|ton|t|lb)s?(?:\b|(?=CO))"
    r"(?!\s*(?:CO\S*\s*)?/)",
    re.IGNORECASE,
)
_HOURS = re.compile(rf"{_NUMBER}\s*(?:\w+[- ]){{0,2}}(?:hours|hrs|h)\b", re.I)
_GRID = re.compile(
    r"(\d*\.?\d+)\s*(kg|g)\s*(?:of )?(?:CO\S{0,12}\s*)?(?:eq\w*\.?\s*)?/\s*kWh", re.I
)
_TDP = re.compile(r"TDP[^.;\d]{0,20}(\d[\d.]*)\s*W", re.I)
_EMISSIONS = r"co[₂2]|carbon|emission"

_KEYS = {
    "emitted": rf"(?:{_EMISSIONS})",
    "hardware": r"hardware|accelerator|gpu type|gpus? used",
    "hours": r"hours|runtime|training time|duration",
    "provider": r"cloud provider|provider",
    "region": r"region|location",
}
_FIELD = re.compile(r"^[\W_]*(.{3,140}?)\s*[:|]\s*(\S.*)$")


@dataclass
class Account:
    """What a card says of one training: field → value, and the line of each."""

    fields: dict[str, str] = field(default_factory=dict)
    statements: dict[str, Statement] = field(default_factory=dict)
    prose: list[Statement] = field(default_factory=list)

    def enter(self, key: str, value: str, statement: Statement) -> None:
        self.fields[key] = value
        self.statements[key] = statement


def recomputed(document: Document) -> Iterator[Judged]:
    """Every CO2 figure of a card, judged by its own arithmetic."""
    accounts = [account for account in _accounts(document) if "emitted" in account.fields]
    for account in accounts:
        yield _judged(account)
    yield from _metadata(document, accounts)


def _accounts(document: Document) -> list[Account]:
    """The fields in the order of the card; a field that comes again begins a new account."""
    accounts: list[Account] = []
    last: tuple[str, ...] | None = None
    for statement in document.statements:
        near = any(re.search(rf"environment|impact|{_EMISSIONS}", title, re.I)
                   for title in statement.section)  # fmt: skip
        parted = _FIELD.match(statement.text)
        key = _key(parted[1]) if parted else ""
        if not near and key not in ("hours", "emitted", "region"):
            continue
        if not accounts or (last is not None and statement.section != last):
            accounts.append(Account())
        last = statement.section
        if key and parted and key in accounts[-1].fields:
            accounts.append(Account())
        if key and parted:
            accounts[-1].enter(key, parted[2], statement)
        else:
            accounts[-1].prose.append(statement)
    for account in accounts:
        _from_prose(account)
    return accounts


def _key(name: str) -> str:
    return next((key for key, words in _KEYS.items() if re.search(rf"\b{words}", name, re.I)), "")


def _from_prose(account: Account) -> None:
    """The calculator's own paragraph gives the same in sentences."""
    for statement in account.prose:
        text = statement.text
        emitted = _MASS.search(_GRID.sub("", text)) if re.search(_EMISSIONS, text, re.I) else None
        if "emitted" not in account.fields and emitted:
            account.enter("emitted", emitted[0], statement)
        if "hours" not in account.fields and (match := _HOURS.search(text)):
            account.enter("hours", match[0], statement)
        if "hardware" not in account.fields and (watts(text) or _TDP.search(text)):
            account.enter("hardware", text, statement)
        if "region" not in account.fields and _GRID.search(text):
            account.enter("region", text, statement)


def _judged(account: Account) -> Judged:
    statement = account.statements["emitted"]
    claimed = mass(account.fields["emitted"])
    says = "the CO2 of the training follows from the card's own hardware, hours and region"

    def found(outcome: Outcome, because: str, **arithmetic: Any) -> Judged:
        return Judged("co2", says, statement, outcome, because, arithmetic=arithmetic)

    if claimed is None:
        return found("not testable", "Its figure has no number with a unit of mass.")
    told = account.fields
    absent = [name for name in ("hardware", "hours", "region") if name not in told]
    if absent:
        return found("not testable", f"The card does not say its {' and '.join(absent)}.")
    hours = _number(re.search(_NUMBER, told["hours"]))
    declared = _TDP.search(told["hardware"])
    power: Sequence[float] = [float(declared[1])] if declared else watts(told["hardware"])
    grid = _grid(told.get("provider", ""), told["region"])
    if not hours or not power or not grid:
        unknown = {"hours": hours, "hardware": power, "region": grid}
        named = [f"{name} “{told[name][:80]}”" for name, value in unknown.items() if not value]
        return found("not testable", f"The calculator does not know the {' and '.join(named)}.")
    devices = _devices(told["hardware"])
    spans = {1: _span(hours, power, grid)}
    if devices > 1:
        spans[devices] = _span(hours * devices, power, grid)
    fits = [many for many, (low, high) in spans.items()
            if low * (1 - TOLERANCE) <= claimed <= high * (1 + TOLERANCE)]  # fmt: skip
    many = fits[0] if fits else 1
    low, high = spans[many]
    formula = (
        f"{_list(power)} W × {hours:,g} h × {_list([g / 1000 for g in grid.values()])} kg/kWh"
        f" ({', '.join(grid)})"
    )
    if devices > 1:
        formula += f", the hours as those of {'one device' if many == 1 else f'{many} devices'}"
    value = _kg(low) if _kg(low) == _kg(high) else f"{_kg(low)} to {_kg(high)}"
    because = f"{formula} = {value}; the card says {_kg(claimed)}"
    numbers = {
        "claimed_kg": claimed, "recomputed_kg": [low, high], "hours": hours, "watts": list(power),
        "kg_per_kwh": {name: grams / 1000 for name, grams in grid.items()}, "devices": many,
    }  # fmt: skip
    if fits:
        return found("supported", f"{because}.", **numbers)
    near = low if claimed < low else high
    way = "below" if claimed < low else "above"
    off = abs(claimed - near) / near
    numbers["off"] = (claimed - near) / near
    because += f", {100 * off:.1f}% {way}{' the nearest of these' if high > low else ''}."
    return found("contradicted", because, **numbers)


def _metadata(document: Document, accounts: Sequence[Account]) -> Iterator[Judged]:
    """The Hub's ``co2_eq_emissions``, in grams, against what the text says."""
    told = document.metadata.get("co2_eq_emissions")
    grams = told.get("emissions") if isinstance(told, dict) else told
    if isinstance(grams, bool) or not isinstance(grams, int | float) or not 0 <= grams < math.inf:
        return
    said = [kg for account in accounts if (kg := mass(account.fields["emitted"])) is not None]
    statement = Statement(f"co2_eq_emissions: {grams:g}", 1, ("front matter",))
    says = "the metadata and the text give the same CO2"
    if not said:
        yield Judged("co2-metadata", says, statement, "not testable", "The text gives no figure.")
        return
    stated = grams / 1000
    agree = any(abs(stated - kg) <= TOLERANCE * max(kg, stated) for kg in [*said, sum(said)])
    listed = " and ".join(_kg(kg) for kg in said)
    because = f"The metadata say {_kg(stated)} (the Hub counts grams), the text {listed}."
    numbers = {"metadata_kg": stated, "text_kg": said}
    outcome: Outcome = "supported" if agree else "contradicted"
    yield Judged("co2-metadata", says, statement, outcome, because, arithmetic=numbers)


def mass(text: str) -> float | None:
    """The first mass of a text in kg.

    >>> mass("11250 kg CO2 eq."), mass("1.5 tonnes"), mass("11,250 grams"), mass("much")
    (11250.0, 1500.0, 11.25, None)
    """
    match = _MASS.search(text)
    return None if match is None else _number(match) * _UNITS[match[3].lower()]


def _number(match: re.Match[str] | None) -> float:
    if match is None:
        return 0.0
    scale = {"k": 1e3, "thousand": 1e3, "million": 1e6}.get((match[2] or "").lower(), 1.0)
    value = float(match[1].replace(",", "")) * scale
    return value if value < 1e15 else 0.0


def _devices(hardware: str) -> int:
    """“32 x 8 x A100” names 256 devices."""
    counts = re.findall(r"\b(\d{1,6})\s*[x×*]", hardware)
    return prod(map(int, counts[:4])) if counts else 1


def _grid(provider: str, region: str) -> dict[str, float]:
    if stated := _GRID.search(region):
        grams = float(stated[1]) * (1000 if stated[2].lower() == "kg" else 1)
        return {"as the card states": grams}
    return regions(provider, region)


def _span(hours: float, power: Sequence[float], grid: dict[str, float]) -> tuple[float, float]:
    made = [
        co2_kg(kwh(watt * hours * 3600), pue=1.0, kg_per_kwh=grams / 1000)
        for watt in power
        for grams in grid.values()
    ]
    return min(made), max(made)


def _kg(mass: float) -> str:
    return f"{mass:,.0f} kg" if mass >= 100 else f"{mass:,.4g} kg"


def _list(values: Sequence[float]) -> str:
    return " or ".join(f"{value:g}" for value in dict.fromkeys(values))
