"""The page of memorization: thresholds, cliques and pairs, against pandas on the same run."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from audit.copies import largest_clique, pixels, tiled_l2_pairs
from audit.statistics import clopper_pearson, wilson
from audit.store import Run
from dashboard import memorized, parts, queries, runs
from tests.dashboard import synthetic_run
from tests.dashboard.synthetic_run import HOSTILE
from tests.dashboard.test_dashboard_pages import body, show


@pytest.fixture
def made(copies_folder: Path) -> Run:
    runs.show([copies_folder])
    return Run.open(copies_folder)


def captions(run: Run) -> pd.DataFrame:
    return run.read_table("tables/memorization.captions")


def rates(test: AppTest) -> dict[str, tuple[int, int]]:
    """What is beyond, of how many, by the table's first column."""
    rows = re.findall(r'<th scope="row">([^<]+)<small>([\d,]+) of ([\d,]+) \w+ beyond', body(test))
    return {name: (int(k), int(n)) for name, k, n in rows}


@pytest.mark.parametrize("at", [9.0, 11.5, 15.0])
def test_rates_beyond_a_threshold_are_those_of_pandas(made: Run, at: float) -> None:
    frame = captions(made)
    test = show("memorization", t_captions_text_noise_first=f"{at}")
    beyond = frame.text_noise_first > at
    yes, no = frame.label == 1, frame.label == 0
    assert rates(test) == {
        "True-positive rate": (int(beyond[yes].sum()), int(yes.sum())),
        "False-positive rate": (int(beyond[no].sum()), int(no.sum())),
        "Unknown": (int(beyond[~yes & ~no].sum()), int((~yes & ~no).sum())),
    }
    text, k, n = body(test), int(beyond[yes].sum()), int(yes.sum())
    assert (
        f"{parts.percents(wilson(k, n))}<small>exact {parts.percents(clopper_pearson(k, n))}"
        in text
    )


def test_a_signal_that_lies_low_counts_what_is_below(made: Run) -> None:
    frame = captions(made)
    test = show("memorization", captions_x="ℓ2 to the match", t_captions_distance="0.2")
    known = frame[frame.distance.notna()]
    yes = known.label == 1
    k = int((known.distance[yes] < 0.2).sum())
    assert rates(test)["True-positive rate"] == (k, int(yes.sum()))
    assert k > 0


def test_it_starts_at_the_probes_own_operating_point(made: Run) -> None:
    table = made.read_table("tables/memorization.signals").set_index("column")
    test = show("memorization")
    row = table.loc["text_noise_first"]
    slider = test.slider(key="t_captions_text_noise_first")
    assert slider.value == pytest.approx(row.threshold)
    k, n = rates(test)["True-positive rate"]
    assert k / n == pytest.approx(row.tpr)


def test_a_move_counts_anew_and_the_address_opens_it(made: Run) -> None:
    test = show("memorization")
    test.slider(key="t_captions_text_noise_first").set_value(12.0).run()
    assert not test.exception
    assert rates(test) == rates(show("memorization", t_captions_text_noise_first="12"))


def test_images_are_counted_by_the_probes_verdict(made: Run) -> None:
    frame = made.read_table("tables/memorization.neighbours")
    test = show("memorization", points="images", t_images_text_noise_first="12")
    beyond, copied = frame.text_noise_first > 12, frame.copied.astype(bool)
    assert rates(test) == {
        "Copied": (int((beyond & copied).sum()), int(copied.sum())),
        "Not copied": (int((beyond & ~copied).sum()), int((~copied).sum())),
    }


def test_what_is_beyond_is_listed_with_its_images(made: Run) -> None:
    frame = captions(made).sort_values("text_noise_first", ascending=False)
    text = body(show("memorization", t_captions_text_noise_first="12"))
    listed = re.findall(r'aria-label="images of ([^"]+)"', text)
    assert listed == list(frame.text[frame.text_noise_first > 12][:12])
    assert "/gallery?probe=memorization&amp;q=caption+300" in text


def test_points_are_a_bounded_sample_and_counts_are_of_all(
    made: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memorized, "POINTS", 10)
    with made.connect() as database:
        views = queries.catalog(database)
        points = memorized.points(database, views, "captions", "text_noise_first", "distance")
        counts = memorized.beyond(database, views, "captions", "text_noise_first", 0.0)
    assert len(points) == 10
    assert sum(one.beyond for one in counts) == len(captions(made))


@pytest.mark.parametrize("delta", [0.01, 0.06, 0.15])
def test_the_clique_is_the_largest_set_of_seeds_within_the_distance(
    made: Run, delta: float
) -> None:
    frame = made.read_table("tables/memorization.neighbours")
    text = frame[frame.clique.between(2, 4)].caption.iloc[0]
    mine = frame[frame.caption == text].sort_values("index")
    images = np.stack([pixels(made.load_image(digest)) for digest in mine.image])
    clique = largest_clique(tiled_l2_pairs(images.astype(np.float32)), delta)
    test = show("memorization", prompt=text, delta=f"{delta}")
    assert f"<b>{len(clique)} of {len(mine)}</b> seeds lie within {delta:g}" in body(test)
    grid = body(test).split("t2i-seeds")[1].split("</div>")[0]
    marked = re.findall(r"/thumb/0/([0-9a-f]{64})[^>]*><span class=\"t2i-mark\">", grid)
    assert marked == ([mine.image.iloc[n] for n in clique] if len(clique) > 1 else [])


def test_at_the_probes_distance_the_clique_is_the_probes(made: Run) -> None:
    frame = made.read_table("tables/memorization.neighbours")
    test = show("memorization")
    first = frame.sort_values(["clique", "caption"], ascending=[False, True]).iloc[0]
    assert test.selectbox(key="prompt").value == first.caption
    assert f"<b>{int(first.clique)} of 5</b>" in body(test)


@pytest.mark.parametrize(
    ("parameter", "value", "said"),
    [
        ("captions_x", "<i>", "the signal"),
        ("points", "dots", "the points"),
        ("prompt", "no such caption", "the prompt"),
        ("delta", "7", "the threshold"),
    ],
)
def test_what_the_address_cannot_have_is_one_clear_line(
    made: Run, parameter: str, value: str, said: str
) -> None:
    text = body(show("memorization", **{parameter: value}))
    lines = re.findall(r'role="alert">(.*?)</p>', text)
    assert len(lines) == 1
    assert f"asks for {said}" in lines[0] and "<i>" not in lines[0]


def test_a_match_of_a_web_index_is_text_and_no_link(tmp_path: Path) -> None:
    run = synthetic_run.build(tmp_path / "run", images=20)
    made = run.read_table("records").dropna(subset="image").iloc[:3]
    address = "http://example.invalid/a.png?<script>"
    frame = pd.DataFrame(
        {
            "request": made.request,
            "image": made.image,
            "match": None,
            "caption": "a caption",
            "neighbour_caption": HOSTILE[0],
            "nearest_url": address,
            "similarity": [0.9, 0.8, 0.7],
            "distance": np.nan,
            "copied": False,
        }
    )
    run.write_table("tables/memorization.neighbours", frame)
    for name in ("signals", "duplication"):
        (run.path / f"tables/memorization.{name}.parquet").unlink()
    runs.show([run.path])
    test = show("memorization")
    text = body(test)
    assert f'<code class="t2i-address">{html.escape(address)}</code>' in text
    assert text.count("nothing is fetched") == 3
    assert html.escape(HOSTILE[0]) in text and HOSTILE[0] not in text
    assert not re.search(r'(?:href|src)="[^"]*example', text)
    assert "<b>0.9</b>" in text
    assert test.selectbox(key="order").value == "most similar"  # there are no distances
    assert "not copied" not in text  # nobody is accused or cleared by similarity alone


def test_hostile_captions_are_no_markup(run: Any) -> None:
    assert "<script" not in body(show("memorization"))
