"""The page of watermarks, against pandas and statsmodels on the same run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.proportion import proportion_confint

from audit.statistics import rate
from audit.store import Run
from dashboard import marks, queries, runs
from tests.dashboard.test_dashboard_pages import body, show


@pytest.fixture
def made(instruments_folder: Path) -> Run:
    runs.show([instruments_folder])
    return Run.open(instruments_folder)


@pytest.fixture
def matches(made: Run) -> pd.DataFrame:
    return made.read_table("tables/watermarks.matches")


@pytest.mark.parametrize("p", [0.05, 1e-3, 1e-6, 1e-9])
def test_marks_found_are_those_below_the_p_value(
    made: Run, matches: pd.DataFrame, p: float
) -> None:
    prompts = made.read_table("uses/watermarks").set_index("request").text
    with made.connect() as database:
        found = marks.found(database, queries.catalog(database), p)
    plain = matches[matches.attack == "none"]
    assert len(found) == plain.groupby(["codec", "delivery"]).ngroups
    for one in found:
        part = plain[(plain.codec == one.codec) & (plain.delivery == one.delivery)]
        expected = rate(part.p <= p, prompts[part.request].to_numpy())
        assert (one.rate.events, one.rate.n) == (expected.events, expected.n)
        assert one.rate.ci == pytest.approx(expected.ci)
        exact = proportion_confint(expected.events, expected.n, method="beta")
        assert one.exact == pytest.approx(
            np.nan_to_num(exact, nan=0.0) if expected.events == 0 else exact
        )


def test_curves_of_attacks_have_exact_limits_and_the_cost(made: Run, matches: pd.DataFrame) -> None:
    with made.connect() as database:
        frame = marks.attacks(database, queries.catalog(database), 1e-3)
    for row in frame.itertuples():
        part = matches[(matches.codec == row.codec) & (matches.delivery == row.codec)]
        part = part[part.attack == row.attack]
        if row.attack != "none":
            part = part[part.strength == row.strength]
        assert (row.events, row.n) == ((part.p <= 1e-3).sum(), len(part))
        low, high = proportion_confint(row.events, row.n, method="beta")
        assert (row.low, row.high) == pytest.approx(
            (np.nan_to_num(low), high if row.events < row.n else 1)
        )
    table = made.read_table("tables/watermarks.robustness")
    cost = table[(table.codec == "sd-v1") & (table.attack == "jpeg") & (table.strength == 50)]
    mine = frame[(frame.codec == "sd-v1") & (frame.attack == "jpeg") & (frame.strength == 50)]
    assert mine.psnr.item() == cost.psnr.iloc[0] > 10


def test_realised_rates_are_the_empirical_distribution_of_clean_images(
    made: Run, matches: pd.DataFrame
) -> None:
    clean = matches[(matches.attack == "none") & (matches.delivery == "clean")]
    with made.connect() as database:
        frame = marks.realised(database)
    for row in frame.iloc[::7].itertuples():
        p = clean.p[clean.codec == row.codec]
        assert row.realised == (p <= row.nominal).mean()
    null = made.read_table("tables/watermarks.null").set_index(["codec", "nominal"])
    for row in frame[frame.nominal == 0.1].itertuples():
        assert row.realised == pytest.approx(null.loc[(row.codec, 0.1)].realised)
        exact = proportion_confint(row.events, row.n, method="beta")
        assert (row.low, row.high) == pytest.approx(exact)
    assert frame.nominal.min() == pytest.approx(0.01)  # 48 images show no rate below


def test_formats_and_polarities_are_tallied(made: Run, matches: pd.DataFrame) -> None:
    with made.connect() as database:
        rows = marks.matched(database, 0.05)
    plain = matches[(matches.attack == "none") & (matches.p <= 0.05)]
    expected = plain.groupby(["codec", "delivery", "domain", "inverted"]).size().to_dict()
    keys = ("codec", "delivery", "domain", "inverted")
    assert {tuple(row[key] for key in keys): row["n"] for row in rows} == expected
    assert all(row["read"] == 48 for row in rows)


def test_the_page_counts_anew_at_another_p_value_and_the_address_opens_it(
    made: Run, matches: pd.DataFrame
) -> None:
    test = show("watermarks")
    assert test.select_slider(key="p").value == "1e-06"
    test.select_slider(key="p").set_value("1e-10").run()
    assert not test.exception
    own = matches[
        (matches.attack == "none") & (matches.codec == "sdxl") & (matches.delivery == "sdxl")
    ]
    k = int((own.p <= 1e-10).sum())
    for page in (test, show("watermarks", p="1e-10")):
        assert f"<b>{k / len(own):.1%}</b>" in body(page)
        assert "/gallery?probe=watermarks&amp;tag_delivery=sdxl" in body(page)


@pytest.mark.parametrize("against", ["PSNR", "SSIM"])
def test_attacks_are_shown_against_their_cost(made: Run, against: str) -> None:
    test = show("watermarks", against=against)
    assert any(f"{against} of the attacked" in one.value for one in test.caption)


def test_an_impossible_p_value_is_one_clear_line(made: Run) -> None:
    text = body(show("watermarks", p="<b>", against="nothing"))
    lines = re.findall(r'role="alert">(.*?)</p>', text)
    assert len(lines) == 2
    assert "&lt;b&gt;" in lines[0]


def test_states_of_c2pa_are_tallied(made: Run, tmp_path: Path) -> None:
    table = made.read_table("tables/watermarks.provenance")
    with made.connect() as database:
        assert sum(row["n"] for row in marks.provenance(database)) == len(table)
    run = Run.create(tmp_path / "run")
    run.write_json("run.json", {"schema_version": 1})
    states = ["Valid"] * 5 + ["Invalid"] * 2 + ["<script>"]
    frame = pd.DataFrame(
        {
            "request": list("abcdefgh"),
            "prompt": "p",
            "outcome": "ok",
            "mark": ["sdxl"] * 4 + [""] * 4,
            "readable": True,
            "black": [False] * 7 + [True],
            "credentials": states,
            "generated": [True] * 5 + [False] * 3,
        }
    )
    run.write_table("tables/watermarks.provenance", frame)
    with run.connect() as database:
        found = {(r["credentials"], r["mark"]): r["n"] for r in marks.provenance(database)}
    assert found == {
        ("Valid", "sdxl"): 4, ("Valid", "no mark"): 1, ("Invalid", "no mark"): 2,
        ("<script>", "no mark"): 1,
    }  # fmt: skip


def test_a_run_without_watermarks_says_so(run: Any) -> None:
    text = body(show("watermarks"))
    assert "No mark was read" in text
    assert "invisible-watermark is not installed" in text
