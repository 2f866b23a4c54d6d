"""The page of filters: what it says at a threshold, and what the address opens."""

from __future__ import annotations

import html
import io
import json
import re
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import pyarrow as pa
import pytest
from sklearn import metrics
from streamlit.testing.v1 import AppTest

from audit.store import Run
from dashboard import filter_scores, runs
from tests.dashboard import synthetic_run
from tests.dashboard.synthetic_run import HOSTILE
from tests.dashboard.test_dashboard_pages import body, show


@pytest.fixture
def made(instruments_folder: Path) -> Run:
    runs.show([instruments_folder])
    return Run.open(instruments_folder)


def scores(run: Run, name: str = "safety-checker") -> pd.DataFrame:
    frame = run.read_table("tables/safety_filters.scores")
    return frame[frame["filter"] == name]


def cells(test: AppTest) -> list[int]:
    """Blocked and passed restricted ones, then harmless ones."""
    found = re.findall(r't2i-cell-\w+"><span class="t2i-big">([\d,]+)', body(test))
    return [int(number.replace(",", "")) for number in found]


def expected(frame: pd.DataFrame, at: float) -> list[int]:
    truth, decided = frame.restricted.astype(bool), frame.score >= at
    [[tp, fn], [fp, tn]] = metrics.confusion_matrix(truth, decided, labels=[True, False])
    return [tp, fn, fp, tn]


def warned(test: AppTest) -> list[str]:
    return re.findall(r'role="alert">(.*?)</p>', body(test))


def test_the_page_opens_at_the_filters_own_decision(made: Run) -> None:
    test = show("filters")
    frame = scores(made)
    assert test.slider(key="t_safety_checker").value == pytest.approx(0, abs=0.01)
    own = frame.restricted.astype(bool)
    assert cells(test) == [
        int((frame.blocked & own).sum()),
        int((~frame.blocked & own).sum()),
        int((frame.blocked & ~own).sum()),
        int((~frame.blocked & ~own).sum()),
    ]
    assert f"blocks {int(frame.blocked.sum())} of {len(frame)} images" in _captions(test)


def test_a_move_of_the_threshold_counts_anew_and_the_address_opens_it(made: Run) -> None:
    test = show("filters")
    test.slider(key="t_safety_checker").set_value(0.0321).run()
    assert not test.exception
    assert cells(test) == expected(scores(made), 0.0321)
    again = show("filters", t_safety_checker="0.0321")
    assert cells(again) == cells(test)


def test_each_filter_keeps_a_threshold_of_its_own(made: Run) -> None:
    test = show("filters", filter="opennsfw", t_opennsfw="0.8", t_safety_checker="-0.02")
    assert cells(test) == expected(scores(made, "opennsfw"), 0.8)
    test = show("filters", t_opennsfw="0.8", t_safety_checker="-0.02")
    assert cells(test) == expected(scores(made), -0.02)


@pytest.mark.parametrize("bad", ["abc", "nan", "1e9", ""])
def test_an_impossible_threshold_is_one_clear_line(made: Run, bad: str) -> None:
    test = show("filters", t_safety_checker=bad)
    [line] = warned(test)
    assert line.startswith(f"The address asks for the threshold &#x27;{bad}&#x27;")
    assert cells(test) == cells(show("filters"))


def test_an_unknown_filter_or_cell_is_one_clear_line(made: Run) -> None:
    test = show("filters", filter="<b>x</b>", cell="nowhere")
    assert len(warned(test)) == 2
    assert "&lt;b&gt;x&lt;/b&gt;" in warned(test)[0]
    assert cells(test)


def test_the_images_of_a_cell_are_those_of_the_confusion_matrix(made: Run) -> None:
    frame = scores(made)
    wrong = frame[~frame.restricted.astype(bool) & (frame.score >= 0.03)]
    test = show("filters", cell="blocked, harmless", t_safety_checker="0.03")
    found = re.findall(r'href="(/gallery\?[^"]*request=[^"]*)"', body(test))
    requests = [re.search(r"request=(\w+)", html.unescape(link)) for link in found]
    assert [match[1] for match in requests if match] == list(
        wrong.sort_values("score").request[:14]
    )


def drawn(test: AppTest) -> dict[str, tuple[str, dict[str, pd.DataFrame]]]:
    """First words of each chart's alternative text → its specification and its data."""
    return {
        chart.proto.alt.partition(" ")[0]: (
            chart.proto.spec,
            {
                one.name: pa.ipc.open_stream(io.BytesIO(one.data.data)).read_pandas()
                for one in chart.proto.datasets
            },
        )
        for chart in test.get("vega_lite_chart")
    }


def test_charts_draw_the_counts_and_the_threshold(made: Run) -> None:
    charts, frame = drawn(show("filters", t_safety_checker="0.0321")), scores(made)
    [tp, fn, fp, tn] = expected(frame, 0.0321)
    with runs.shown()[made.path.name].connect() as database:
        curves = filter_scores.curves(database, "safety-checker")
        seen = filter_scores.outline(database, "safety-checker")
        bars = filter_scores.histogram(database, "safety-checker", seen.low, seen.high)
    assert curves is not None
    _, of_scores = charts["Scores"]
    pd.testing.assert_frame_equal(of_scores["scores"], bars, check_dtype=False)
    assert of_scores["at"].to_dict("list") == {"threshold": [0.0321]}
    for name, columns in (
        ("ROC", ["threshold", "fpr", "tpr", "tpr_low", "tpr_high"]),
        ("Precision", [*curves.points.columns]),
    ):
        _, data = charts[name]
        assert list(data["points"].row) == list(range(len(data["points"])))
        points = data["points"][columns].tail(len(curves.points)).reset_index(drop=True)
        pd.testing.assert_frame_equal(points, curves.points[columns])
        assert data["now"].iloc[0].to_dict() == pytest.approx(
            {"threshold": 0.0321, "fpr": fp / (fp + tn), "tpr": tp / (tp + fn),
             "precision": tp / (tp + fp)}
        )  # fmt: skip
    _, data = charts["ROC"]
    assert data["points"].iloc[0][["fpr", "tpr", "tpr_low", "tpr_high"]].tolist() == [0, 0, 0, 0]
    assert data["points"].threshold.isna().tolist()[:2] == [True, False]
    base = frame.restricted.astype(bool).mean()
    assert charts["Precision"][1]["base"].precision.tolist() == pytest.approx([base])


def test_a_move_of_the_threshold_sends_its_own_mark_alone(made: Run) -> None:
    test = show("filters", t_safety_checker="0.0321")
    before = drawn(test)
    test.slider(key="t_safety_checker").set_value(-0.0123).run()
    changed = set()
    for name, (spec, data) in drawn(test).items():
        assert spec == before[name][0]
        changed |= {(name, each) for each in data if not data[each].equals(before[name][1][each])}
    assert changed == {("Scores", "at"), ("ROC", "now"), ("Precision", "now")}


def test_every_chart_is_vega_lite_and_names_data_that_it_is_given(made: Run) -> None:
    charts = drawn(show("filters"))
    assert len(charts) == 4
    for spec, data in charts.values():
        alt.LayerChart.from_dict(json.loads(spec))  # against the schema, which no page does
        assert set(re.findall(r'"data": {"name": "(\w+)"}', spec)) == data.keys()


def test_a_threshold_beyond_all_scores_has_no_precision(made: Run) -> None:
    charts = drawn(show("filters", t_safety_checker=str(_highest(made))))
    assert len(charts["Precision"][1]["now"]) == 0
    assert charts["ROC"][1]["now"][["fpr", "tpr"]].to_dict("list") == {"fpr": [0], "tpr": [0]}


def _highest(made: Run) -> float:
    """Where the slider ends: a little beyond the highest score."""
    found: float = show("filters").slider(key="t_safety_checker").max
    assert found > scores(made).score.max()
    return found


def test_groups_and_languages_move_with_the_threshold(made: Run) -> None:
    low, high = (body(show("filters", t_safety_checker=t)) for t in ("-0.05", "0.05"))
    for text in (low, high):
        assert "The same scene and seed in versions" in text
        assert "language: &lt;b&gt;xx&lt;/b&gt;" in text
        assert "gender: female" in text
    assert low != high
    frame = made.read_table("tables/safety_filters.versions")
    frame = frame[(frame["filter"] == "safety-checker") & (frame.attribute == "skin")]
    rates = (frame.score >= 0.05).groupby(frame.version).mean()
    gap = rates["dark"] - (rates["light"] + rates["medium"]) / 2
    assert f"<b>{100 * gap:+.1f}</b>".replace("-", "−") in high


def test_curves_agreement_margins_and_flips_are_there(made: Run) -> None:
    test, frame = show("filters"), scores(made)
    text = body(test)
    area = metrics.roc_auc_score(frame.restricted.astype(bool), frame.score)
    assert f"Area <b>{area:.3g}</b>" in text
    other = scores(made, "opennsfw").set_index("request").blocked[frame.request]
    kappa = metrics.cohen_kappa_score(frame.blocked.to_numpy(bool), other.to_numpy(bool))
    assert f"<b>{kappa:.3g}</b>" in text
    headers = [header.value for header in test.header]
    for wanted in ("Margins of its concepts", "Does a small change turn its decision?"):
        assert wanted in headers
    turned = made.read_table("tables/safety_filters.robustness").set_index("perturbation")
    share = turned.flips["grey"] / turned.n["grey"]
    assert f"<b>{share:.1%}</b>" in text


def test_reliability_is_shown_where_the_probe_takes_the_score_for_a_probability(
    made: Run, tmp_path: Path
) -> None:
    assert "Reliability" not in [one.value for one in show("filters").subheader]
    run = synthetic_run.build(tmp_path / "run", images=20)
    frame = pd.DataFrame(
        {
            "request": run.read_table("records").request[:20],
            "filter": "judge",
            "concept": "x",
            "restricted": [False, True] * 10,
            "score": [i / 20 for i in range(20)],
            "blocked": [i >= 10 for i in range(20)],
        }
    )
    run.write_table("tables/safety_filters.scores", frame)
    brier = {"probe": "safety-filters", "metric": "brier_score", "slice": {"filter": "judge"}}
    run.write_json("findings.json", [brier | {"estimate": 0.3, "verdict": "within"}])
    runs.show([run.path])
    test = show("filters")
    assert "Reliability" in [one.value for one in test.subheader]
    y = frame.restricted.astype(int)
    assert f"Brier score <b>{((y - frame.score) ** 2).mean():.3g}</b>" in body(test)


def test_nothing_from_the_run_is_markup(made: Run) -> None:
    text = body(show("filters", cell="passed, harmless", t_safety_checker="0.2"))
    text += body(show("filters", cell="passed, harmless", t_safety_checker="-0.2"))
    assert "<script" not in text
    assert "onerror=" not in re.sub(r"&lt;.*?&gt;|title=\"[^\"]*\"|alt=\"[^\"]*\"", "", text)
    assert HOSTILE[0] not in text


def test_names_that_are_markdown_are_no_markdown(tmp_path: Path) -> None:
    run = synthetic_run.build(tmp_path / "run", images=20)
    frame = pd.DataFrame(
        {"request": ["a", "b"], "filter": "![x](http://e.invalid/x.png)", "concept": HOSTILE[1],
         "restricted": [None, None], "score": [0.1, float("inf")], "blocked": [False, True]}
    )  # fmt: skip
    run.write_table("tables/safety_filters.scores", frame)
    runs.show([run.path])
    test = show("filters")
    assert [box.label for box in test.selectbox] == ["Filter"]
    assert "What is truly on these images is not known" in body(test)


def test_a_run_without_filters_says_so(run: Any) -> None:
    assert "was not analysed" in body(show("filters"))


def _captions(test: AppTest) -> str:
    return " ".join(caption.value for caption in test.caption).replace("\\", "")
