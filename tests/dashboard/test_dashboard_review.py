"""Review: blind labels with a key each, agreement, and findings with labels."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from audit import engine
from audit.card import write as write_card
from audit.errors import AuditError
from audit.labels import Labels
from audit.recompute import PROBE
from audit.reopened import attributes_of, study_of
from audit.statistics import krippendorff_alpha
from audit.store import Run
from dashboard import jobs, review_queue, runs
from probes.demographics import Demographics
from tests.dashboard import labelled_run, synthetic_run
from tests.dashboard.test_dashboard_pages import body, show


@pytest.fixture
def shown(tmp_path: Path) -> runs.Shown:
    """A run of 15 portraits that may be labelled."""
    runs.show([labelled_run.build(tmp_path / "run", images=5).path])
    return next(iter(runs.shown().values()))


def labels_of(run: Run) -> Labels:
    return Labels(run, attributes_of(run, PROBE))


def image(test: AppTest) -> str:
    """The image that is to be labelled."""
    [found] = re.findall(r't2i-review"><img src="/image/0/([0-9a-f]{64})', body(test))
    return str(found)


def press(test: AppTest, label: str) -> AppTest:
    """The button of a label."""
    [button] = [
        b
        for b in test.button
        if str(b.key).startswith("give-") and str(b.key).endswith(f"-{label}")
    ]
    button.click().run()
    assert not test.exception
    return test


def refused(**parameters: str) -> str:
    """What the app says in one line instead of the page."""
    test = AppTest.from_string(
        "from dashboard.views import review\nreview.page()", default_timeout=60
    )
    for name, value in parameters.items():
        test.query_params[name] = value
    [error] = test.run().exception
    assert error.proto.type.endswith("AuditError")
    return str(error.message)


def label_all(rater: str, say: Callable[[str], str], count: int, **more: str) -> list[str]:
    test = show("review", rater=rater, **more)
    seen = []
    for _ in range(count):
        seen.append(image(test))
        press(test, say(seen[-1]))
    return seen


def test_two_raters_label_undo_and_their_agreement_is_krippendorff_s(shown: runs.Shown) -> None:
    words, order = {"f": "female", "m": "male"}, list[str]()
    test = show("review", rater="anna", overlap="100 %")
    for letter in "ffmmfm":
        order.append(image(test))
        press(test, words[letter])
    test = show("review", rater="ben", overlap="100 %")
    for at, letter in enumerate("ffmffm"):
        assert image(test) == order[at]  # everybody is given the same images
        if at == 2:  # a slip, undone
            press(test, "undetermined")
            test.button(key="undo").click().run()
            assert image(test) == order[2]
        press(test, words[letter])
    labels = labels_of(shown)
    said = {row.image: row.label[0] for row in labels.current("gender", "ben")}
    assert said == dict(zip(order, "ffmffm", strict=True))
    assert [row.withdraws for row in labels.log() if row.withdraws] == [9]
    assert all(row.blind for row in labels.log())
    # By hand: 7 of 12 labels are f, one image of six is split, so 1 − 11 · 2 / (2 · 7 · 5).
    by_hand = 1 - 22 / 70
    units = sorted(zip(order, "ffmmfm", "ffmffm", strict=True))
    ratings = [[letter == "f" for _, *said in units for letter in said[who]] for who in (0, 1)]
    value, (low, high) = krippendorff_alpha(ratings)
    assert value == pytest.approx(by_hand)
    text = body(show("review", part="Agreement"))
    assert f"<b>{by_hand:.3f}</b><small>[{low:.3f}, {high:.3f}]" in text
    assert "tentative" in text
    split = body(show("review", part="Disagreements", attribute="gender"))
    assert "<b>1</b> of 6 images with several labels" in split
    assert re.findall(r'/thumb/0/([0-9a-f]{64})"', split) == [order[3]]
    assert re.search(r"anna</span> <b>male</b>.*ben</span> <b>female</b>", split, re.S)
    assert "UTC" in split


def test_the_queue_is_blind_until_asked_and_then_labels_say_so(shown: runs.Shown) -> None:
    test = show("review", rater="anna")
    text = body(test)
    for word in ("portrait", "nurse", "planted", "clip", "0.27", *map(str, labelled_run.SHARES)):
        assert word not in text, word
    first = image(test)
    press(test, "female")
    test.toggle(key="unblind").set_value(True).run()
    told = body(test)
    assert "a portrait of a" in told and "planted" in told and "clip_gender_female" in told
    assert "<b>baker" not in told
    second = image(test)
    test.toggle(key="unblind").set_value(False).run()
    press(test, "male")  # what was seen is not unseen
    press(test, "male")
    rows = {row.image: row.blind for row in labels_of(shown).log()}
    assert rows[first] and not rows[second] and sum(rows.values()) == 2


def test_who_logged_in_labels_under_that_name_only(
    shown: runs.Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(st, "user", {"is_logged_in": True, "email": "eve+audit@example.org"})
    test = show("review", rater="anna")
    press(test, "male")
    assert [row.author for row in labels_of(shown).log()] == ["eve+audit@example.org"]


def test_a_reason_goes_with_its_label_only(shown: runs.Shown) -> None:
    test = show("review", rater="anna")
    test.text_input[1].input("hair <b>covered</b>").run()
    press(test, "undetermined")
    press(test, "male")
    reasons = [row.reason for row in labels_of(shown).log()]
    assert reasons == ["hair <b>covered</b>", ""]


def test_next_passes_by_and_labelling_comes_back(shown: runs.Shown) -> None:
    test = show("review", rater="anna")
    first = image(test)
    test.button(key="next").click().run()
    second = image(test)
    assert second != first and test.query_params["at"] in ("2", ["2"])
    press(test, "male")
    assert image(test) not in (first, second)
    test = show("review", rater="anna")  # another day
    assert image(test) == first
    test = show("review", rater="anna", at="2")  # a link opens the same image
    assert image(test) == second and "you said <b>male</b>" in body(test)


def test_all_labelled_stays_at_the_end_and_counts(shown: runs.Shown) -> None:
    seen = label_all("anna", lambda _: "male", 15)
    assert len(set(seen)) == 15
    text = body(show("review", rater="anna"))
    assert "<b>15</b> of 15 labelled" in text
    assert "<b>15</b> of 15 images by 1 rater, <b>0</b> by more than one" in text
    text = body(show("review", rater="anna", attribute="glasses"))
    assert "<b>0</b> of 15 labelled" in text


def test_a_queue_grows_when_all_that_was_drawn_is_labelled(
    shown: runs.Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [shot.image for shot in review_queue.queue(shown, "anna", 0.2, 15)]
    monkeypatch.setattr(review_queue, "AHEAD", 4)
    test = show("review", rater="anna")
    assert "<b>0</b> of 4 labelled so far; the queue grows up to 15" in body(test)
    seen = []
    for _ in range(15):
        seen.append(image(test))
        press(test, "male")
    assert seen == whole
    assert "<b>15</b> of 15 labelled" in body(test)


def test_flagged_images_stay_blurred_until_revealed_one_by_one(shown: runs.Shown) -> None:
    checker = shown.read_table("detections/safety-checker")
    flagged = set(checker.image[checker.flagged])
    shots = review_queue.queue(shown, "anna", 0.2, 15)
    places = [i for i, shot in enumerate(shots) if shot.image in flagged]
    assert len(places) == 2
    test = show("review", rater="anna", at=str(places[0] + 1))
    assert "therefore blurred" in body(test) and "?reveal=1" not in body(test)
    test.button(key="show").click().run()
    assert f"{shots[places[0]].image}?reveal=1" in body(test)
    press(test, "male")
    test = show("review", rater="anna", at=str(places[1] + 1))
    assert "?reveal=1" not in body(test)


def test_a_declared_share_of_images_is_given_to_everybody(tmp_path: Path) -> None:
    runs.show([labelled_run.build(tmp_path / "run", images=60).path])
    run = next(iter(runs.shown().values()))
    for share in (0.0, 0.2, 0.5, 1.0):
        queues = {
            name: review_queue.queue(run, name, share, 180) for name in ("anna", "ben", "cleo")
        }
        for shots in queues.values():
            assert len({shot.image for shot in shots}) == len(shots) == 180
        first = {name: {s.image for s in shots[:50]} for name, shots in queues.items()}
        assert len(set.intersection(*first.values())) >= int(50 * share)
    again = review_queue.queue(run, "anna", 0.2, 180)
    assert again == review_queue.queue(run, "anna", 0.2, 180) != queues["anna"]
    assert [s.image for s in again] != [s.image for s in review_queue.queue(run, "ben", 0.2, 180)]
    # A queue that grows keeps its beginning.
    for most in (0, 1, 7, 50):
        assert review_queue.queue(run, "anna", 0.2, most) == again[:most]
    # Wherever a rater stops, each prompt has about as many labels.
    frame = labelled_run.truth(run)
    counts = frame.subject[[shot.image for shot in again[:60]]].value_counts()
    assert counts.min() >= 17


@pytest.mark.parametrize(
    "parameters",
    [
        {"rater": "=evil()"},
        {"rater": "<script>window.hacked = 1</script>"},
        {"rater": "anna", "at": "0"},
        {"rater": "anna", "at": "9999999"},
        {"rater": "anna", "at": "<script>"},
        {"rater": "anna", "overlap": "7 %"},
        {"rater": "anna", "attribute": "<script>"},
        {"part": "<script>"},
    ],
)
def test_bad_values_in_the_address_are_one_clear_line(
    shown: runs.Shown, parameters: dict[str, str]
) -> None:
    text = body(show("review", **parameters))
    assert "t2i-warn" in text
    assert "<script" not in text


def test_what_cannot_be_kept_is_said_and_the_image_stays(
    shown: runs.Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = show("review", rater="anna")
    first = image(test)

    def held(*_: Any, **__: Any) -> None:
        raise AuditError("labels.sqlite is held by another process; give it again")

    monkeypatch.setattr(Labels, "give", held)
    press(test, "male")
    assert "is held by another process; give it again" in body(test)
    assert image(test) == first
    monkeypatch.undo()
    press(test, "male")
    assert image(test) != first
    assert "held by" not in body(test)


def test_findings_are_recomputed_and_shown_beside_each_other(tmp_path: Path) -> None:
    run = labelled_run.build(tmp_path / "run", images=60)
    engine.analyse(run, study_of(run), {PROBE: Demographics()})
    write_card(run)
    rows = labelled_run.label_some(run, 22)
    runs.show([run.path])
    assert "older than the findings" not in body(show("card"))
    test = show("review", part="Findings")
    assert "<b>66</b> labels of 66 images by 1 rater" in body(test)
    test.button(key="recompute").click().run()
    job = jobs.of(next(iter(runs.shown().values())), jobs.RECOMPUTE)
    assert job is not None and job.wait(120) == 0 and job.error is None
    assert job.step[:2] == (4, 4)
    text = body(show("review", part="Findings"))
    frame = labelled_run.truth(run)
    for name in labelled_run.JOBS:
        mine = frame[frame.subject == name]
        known = mine.index.isin(rows.index)
        y, f = (mine[known].true == "female").mean(), (mine[known].said == "female").mean()
        rest = (mine[~known].said == "female").mean()
        for value in ((mine.said == "female").mean(), min(1.0, max(0.0, rest + y - f))):
            assert f"<b>{value:.3g}</b>" in text
    assert "with 66 labels of 66 images by anna" in text
    assert "<b>baker" not in text
    # One label more: the page says that it is not in yet.
    other = {"female": "male", "male": "female"}[rows.true.iloc[0]]
    labels_of(run).give("ben", str(rows.index[0]), "r", "gender", other)
    test = show("review", part="Findings")
    assert "given or undone since" in test.info[0].value
    assert "Not used, for raters do not agree on them: gender: " in body(test)
    # The card is of before, both pages say so, and it can be written from there.
    assert "older than the findings" in body(show("review", part="Findings"))
    test = show("card")
    assert "older than the findings" in body(test)
    test.button(key="write_card").click().run()
    job = jobs.of(next(iter(runs.shown().values())), jobs.CARD)
    assert job is not None and job.wait(120) == 0
    assert "older than the findings" not in body(show("card"))
    written = run.read_json("card/card.json")["findings"]
    assert [row["estimate"] for row in written] == [
        row["estimate"] for row in run.read_json("findings.json")
    ]


def test_a_card_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    run = labelled_run.build(tmp_path / "run", images=1)
    (tmp_path / "elsewhere").mkdir()
    (run.path / "card").symlink_to(tmp_path / "elsewhere")
    runs.show([run.path])
    test = show("card")
    assert "is a link" in body(test)
    assert not test.button
    (run.path / "card").unlink()
    run.write_json("card/card.json", {"findings": 5})
    assert "is not known" in body(show("card"))


def test_a_recomputation_that_fails_says_why(tmp_path: Path) -> None:
    run = labelled_run.build(tmp_path / "run", images=21)
    labelled_run.label_some(run, 20)
    info = run.info
    info["spec"]["probes"] = {PROBE: {"detector_error": "/nowhere/error.json"}}
    run.write_json("run.json", info)
    runs.show([run.path])
    test = show("review", part="Findings")
    test.button(key="recompute").click().run()
    job = jobs.of(next(iter(runs.shown().values())), jobs.RECOMPUTE)
    assert job is not None and job.wait(120) == 2
    text = body(show("review", part="Findings"))
    assert "not recomputed: the run&#x27;s settings name files: /nowhere/error.json" in text


def test_a_damaged_record_of_a_recomputation_is_one_clear_line(shown: runs.Shown) -> None:
    shown.write_json("recomputed.json", {"before": 5})
    assert "recomputed.json is damaged" in refused(part="Findings")


def test_a_run_without_people_says_so(tmp_path: Path) -> None:
    run = synthetic_run.build(tmp_path / "run", images=20)
    (run.path / "uses/demographics.parquet").unlink()
    runs.show([run.path])
    assert "no images of people to label" in body(show("review"))


def test_a_label_file_from_a_stranger_is_one_clear_line(shown: runs.Shown) -> None:
    with closing(sqlite3.connect(shown.path / "labels.sqlite")) as database:
        database.execute("CREATE TABLE labels (x)")
    for part in ("Label", "Agreement", "Disagreements", "Findings"):
        assert "no file of labels of ours" in refused(part=part, rater="anna")


def test_labels_with_markup_are_text(shown: runs.Shown) -> None:
    labels = labels_of(shown)
    shots = review_queue.queue(shown, "anna", 1.0, 15)
    for author, label in (("anna", "female"), ("ben", "male")):
        labels.give(
            author, shots[0].image, "r", "gender", label, "<script>window.hacked = 1</script>"
        )
    text = body(show("review", part="Disagreements", attribute="gender"))
    assert "<script" not in text and "&lt;script&gt;" in text


def test_the_page_imports_no_library_of_models_or_statistics() -> None:
    code = (
        "import sys, dashboard.views.review, dashboard.jobs;"
        "print(sorted({'torch', 'sklearn', 'scipy', 'statsmodels', 'probes'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
