"""CO2: recomputed from the card's own hardware, hours and region, as the calculator does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from audit.card.claims import check, read

FIELDS = """# M

## Environmental Impact

- **Hardware Type:** {hardware}
- **Hours used:** {hours}
- **Cloud Provider:** {provider}
- **Compute Region:** {region}
- **Carbon Emitted (Power consumption x Time x Carbon produced):** {emitted}
"""


def judged(tmp_path: Path, text: str) -> list[dict[str, Any]]:
    path = tmp_path / "CARD.md"
    path.write_text(text, encoding="utf-8")
    return [claim for claim in check(read(path), ())["claims"] if claim["kind"].startswith("co2")]


def one(tmp_path: Path, **fields: str) -> dict[str, Any]:
    known = {"hardware": "A100 PCIe 40GB", "hours": "1000", "provider": "AWS",
             "region": "us-east-1", "emitted": "92 kg CO2 eq."}  # fmt: skip
    (claim,) = judged(tmp_path, FIELDS.format(**(known | fields)))
    return claim


@pytest.mark.parametrize(("hours", "emitted"), [("150000", "11250"), ("200000", "15000")])
def test_the_cards_of_stable_diffusion_lie_18_percent_below_their_calculator(
    tmp_path: Path, hours: str, emitted: str
) -> None:
    claim = one(tmp_path, hours=hours, region="US-east", emitted=f"{emitted} kg CO2 eq.")
    assert claim["outcome"] == "contradicted"
    assert claim["arithmetic"]["off"] == pytest.approx(11250 / 13792.5 - 1)  # −18.4%
    assert claim["arithmetic"]["recomputed_kg"][0] == pytest.approx(int(hours) * 0.25 * 0.3678)
    assert "18.4% below the nearest" in claim["because"]
    assert claim["line"] == 9


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({}, "supported"),
        ({"emitted": "0.092 t"}, "supported"),
        ({"emitted": "92,000 g CO2eq"}, "supported"),
        ({"emitted": "60 kg"}, "contradicted"),
        ({"emitted": "150 kg"}, "contradicted"),
        ({"hardware": "A100", "emitted": "147 kg"}, "supported"),  # SXM: 400 W
        ({"hardware": "8 x V100-PCIE-16GB", "emitted": "883 kg"}, "supported"),  # 8 × 300 W
        ({"hardware": "8 x V100-PCIE-16GB", "emitted": "110 kg"}, "supported"),  # device hours
        ({"hardware": "8 x V100-PCIE-16GB", "emitted": "400 kg"}, "contradicted"),
        ({"hardware": "Prototype (TDP of 500 W)", "emitted": "184 kg"}, "supported"),
        ({"region": "0.432 kgCO2eq/kWh", "emitted": "108 kg"}, "supported"),
        ({"region": "europe-west4", "provider": "GCP", "emitted": "142 kg"}, "supported"),
        ({"region": "Virginia"}, "not testable"),
        ({"hardware": "a cluster"}, "not testable"),
        ({"emitted": "unknown"}, "not testable"),
        ({"hours": "many"}, "not testable"),
    ],
)
def test_the_figure_is_held_against_power_times_time_times_grid(
    tmp_path: Path, fields: dict[str, str], outcome: str
) -> None:
    claim = one(tmp_path, **fields)
    assert claim["outcome"] == outcome, claim["because"]


def test_the_calculators_own_paragraph_is_read(tmp_path: Path) -> None:
    text = (
        "# M\n\n## Carbon footprint\n\nExperiments used a private infrastructure of 0.432 "
        "kgCO2eq/kWh. A cumulative of 100 hours of computation ran on hardware of type RTX 2080 Ti "
        "(TDP of 250W). Total emissions are estimated to be 10.8 kgCO2eq.\n"
    )
    (claim,) = judged(tmp_path, text)
    assert claim["outcome"] == "supported"
    assert claim["arithmetic"]["recomputed_kg"] == pytest.approx([10.8, 10.8])


def test_several_trainings_are_accounted_one_by_one(tmp_path: Path) -> None:
    first = FIELDS.format(hardware="T4", hours="1000", provider="GCP", region="us-west1",
                          emitted="20.8 kg")  # fmt: skip
    second = first.split("Impact\n")[1].replace("20.8", "30")
    found = judged(tmp_path, first + "\n" + second)
    assert [claim["outcome"] for claim in found] == ["supported", "contradicted"]


def test_grams_of_the_metadata_are_held_against_the_text(tmp_path: Path) -> None:
    text = FIELDS.format(hardware="A100 PCIe", hours="1000", provider="AWS", region="us-east-1",
                         emitted="92 kg")  # fmt: skip
    for grams, outcome in ((92000, "supported"), (92, "contradicted")):
        found = judged(tmp_path, f"---\nco2_eq_emissions:\n  emissions: {grams}\n---\n{text}")
        assert [c["outcome"] for c in found if c["kind"] == "co2-metadata"] == [outcome]
