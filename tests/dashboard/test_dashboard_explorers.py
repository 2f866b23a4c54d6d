"""Bias, languages and comparison: what is shown equals the findings and the tables."""

from __future__ import annotations

import doctest
import html
import math
import re
import shutil
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from audit import evidence
from audit.card import wording
from audit.compare import Opened, compare
from audit.compare import report as comparing
from audit.findings import Finding, judge
from audit.store import Run
from dashboard import compared, forest, lens, means, reading, runs
from dashboard.table import Table
from dashboard.views import language_prompts
from dashboard.views.prompt_details import bar
from tests.dashboard import explorer_run
from tests.dashboard.test_dashboard_pages import body, show


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("explored")
    explorer_run.build(folder / "first", 0.7)
    explorer_run.build(folder / "second", 0.4, guidance=1.5)
    return [folder / "first", folder / "second"]


@pytest.fixture
def run(folders: list[Path]) -> Run:
    runs.show(folders[:1])
    return Run.open(folders[0])


def findings(run: Run, metric: str, **where: str) -> list[Finding]:
    return [
        f
        for f in reading.findings(run)
        if f.metric == metric and all(f.slice.get(k) == v for k, v in where.items())
    ]


def alts(test: AppTest) -> str:
    """The charts in words."""
    return "\n".join(chart.proto.alt for chart in test.get("vega_lite_chart"))


@pytest.mark.parametrize("module", [compared, lens, means])
def test_examples(module: Any) -> None:
    assert doctest.testmod(module).failed == 0


# ---- forest ------------------------------------------------------------------------------


def test_a_forest_draws_estimate_interval_reference_margin_and_the_raw_value() -> None:
    rows = [
        Finding("p", "share_x", {"a": "one"}, 0.6, (0.5, 0.7), n=9, raw=0.55, reference=0.5,
                threshold=0.1, verdict="inconclusive", corrected_for="detector error"),
        Finding("p", "share_x", {"a": "two"}, 0.2, (0.1, math.inf), n=9, raw=0.2, reference=0.5,
                threshold=0.1, verdict="exceeds"),
    ]  # fmt: skip
    data = forest.frame(rows, wording.values)
    assert list(data.label) == ["one", "two"]
    assert list(data.estimate) == [0.6, 0.2]
    assert (data.left[0], data.right[0]) == (0.4, 0.6)
    assert data.raw[0] == 0.55
    assert np.isnan(data.raw[1])  # what was not corrected has no second point
    drawn, given = forest.chart(rows, wording.values)
    alt.LayerChart.from_dict(drawn)  # against the schema, which no page does
    fields = set(re.findall(r"'field': '(\w+)'", str(drawn)))
    assert fields == set(data.columns) == set(given.columns)
    ends = given[["estimate", "low", "high", "left", "right"]].to_numpy().tolist()
    assert ends == [[0.6, 0.5, 0.7, 0.4, 0.6], [0.2, 0.1, pytest.approx(0.736), 0.4, 0.6]]
    kinds = [layer["mark"]["type"] for layer in drawn["layer"]]
    assert kinds == ["bar", "tick", "rule", "point", "point"]
    told = forest.told(rows, wording.values)
    assert "one: 60.0% (50.0% to 70.0%), inconclusive" in told
    assert "two: 20.0% (10.0% to ∞), exceeds" in told


def test_verdicts_of_a_forest_differ_in_shape_too() -> None:
    assert len(set(forest.SHAPES.values())) == len(forest.SHAPES) == len(set(forest.TONES.values()))


# ---- bias --------------------------------------------------------------------------------


def test_the_forest_shows_every_prompts_share(run: Run) -> None:
    told = alts(show("bias"))
    own = findings(run, "share_female_presenting")
    own = [f for f in own if "subject" in f.slice]
    assert len(own) == 9
    for f in own:
        assert f.estimate is not None
        assert f.ci is not None
        ends = " to ".join(map(wording.percent, f.ci))
        verdict = f.verdict.replace("_", " ")
        label = str(f.slice["subject"])
        assert f"{label}: {wording.percent(f.estimate)} ({ends}), {verdict}" in told


def test_a_prompts_share_is_that_of_its_images(run: Run) -> None:
    rows = evidence.table(run, "demographics")
    rows = rows[(rows.subject == "doctor") & (rows.arm == "base")]
    share = (rows.clip_gender_female > rows.clip_gender_male).mean()
    text = body(show("bias", prompt="doctor"))
    assert f'<span class="t2i-big">{share:.1%}</span>' in text
    women = int((rows.clip_gender_female > rows.clip_gender_male).sum())
    assert f"female {women}" in text
    assert f"male {len(rows) - women}" in text
    images = re.findall(r'src="/thumb/0/([0-9a-f]{64})', text)
    assert len(images) == 12
    assert set(images) <= set(rows.image)


def test_another_attribute_and_order_by_the_address(run: Run) -> None:
    test = show("bias", attribute="Share perceived with a dark skin tone", order="lowest")
    told = alts(test)
    own = [f for f in findings(run, "share_dark_skin") if "subject" in f.slice]
    lowest = min(own, key=lambda f: f.estimate or 0.0)
    assert told.startswith(f"Share perceived with a dark skin tone. {lowest.slice['subject']}: ")


def test_cells_of_two_attributes(run: Run) -> None:
    test = show("bias", view="Intersections")
    told = alts(test)
    own = findings(run, "share_gender_skin")
    assert len(own) == 6
    for f in own:
        assert f.estimate is not None
        assert f.reference is not None
        cell = f"{f.slice['gender']} and {f.slice['skin']}: {f.estimate:.1%}"
        assert f"{cell}, expected {f.reference:.1%}" in told
    cells = run.read_table("tables/demographics.cells")
    for row in cells.itertuples():
        said = f"{row.shrunk:.0%}" if row.n else "no image"
        assert f"{row.subject}, {row.within}: {said}" in told


def test_traits_and_identities(run: Run) -> None:
    told = alts(show("bias", view="Traits"))
    for f in findings(run, "stereotype_shift_female_presenting"):
        assert f"{f.slice['subject']}: {wording.signed(f.estimate or 0.0)}" in told
    test = show("bias", view="Identities")
    for f in findings(run, "identity_alignment_gap"):
        assert f"{f.slice['identity']}: {wording.signed(f.estimate or 0.0)}" in alts(test)
    assert "no detector of faces has looked at these images" in body(test)


def test_mean_pictures_are_asked_for_by_the_prompts_tags(run: Run) -> None:
    text = html.unescape(body(show("bias", view="Mean pictures")))
    found = re.findall(r'src="/mean/0/demographics\?([^"]*)"', text)
    assert len(found) == 9
    assert "subject=judge&arm=base" in found
    with runs.at(0).connect() as database:  # type: ignore[union-attr]
        table = Table(database, "demographics")
        chosen = means.selected(table, {"subject": "judge", "arm": "base"})
    rows = evidence.table(run, "demographics")
    rows = rows[(rows.subject == "judge") & (rows.arm == "base")].sort_values("seed")
    assert [image for image, _ in chosen] == list(rows.image)


def test_hostile_subjects_are_text(run: Run) -> None:
    for view in ("Prompts", "Mean pictures", "Intersections"):
        assert "<script" not in body(show("bias", view=view))


@pytest.mark.parametrize("page", ["bias", "languages"])
@pytest.mark.parametrize("name", ["view", "attribute", "order", "prompt", "stage", "by", "page"])
def test_bad_values_in_the_address_are_no_traceback(run: Run, page: str, name: str) -> None:
    show(page, **{name: "x'; DROP VIEW records; --<script>"})


def test_a_bar_counts_everything_once() -> None:
    drawn = bar({"female": 3, "male": 2, "no_face": 1, "several_faces": 1})
    assert re.findall(r"flex:(\d+)", drawn) == ["3", "2", "1"]
    assert "of these with several faces 1" in drawn
    assert bar({}) == ""


# ---- languages ---------------------------------------------------------------------------


def test_the_ladder_tells_what_each_language_loses(run: Run) -> None:
    told = alts(show("languages"))
    for language, planted in explorer_run.LOSSES.items():
        [f] = [f for f in findings(run, "alignment_gap", language=language) if len(f.slice) == 1]
        assert f.estimate == pytest.approx(planted, abs=0.02)
        assert f.ci is not None
        ends = " to ".join(map(wording.signed, f.ci))
        assert re.search(
            rf"{language} \(\w+\): {re.escape(wording.signed(f.estimate))} \({re.escape(ends)}\)",
            told,
        )
    assert told.index("sw (") < told.index("tr (") < told.index("ru (")  # the largest loss first


def test_all_stages_stand_in_one_table(run: Run) -> None:
    text = body(show("languages"))
    table = run.read_table("tables/languages.decomposition")
    row = table[(table.language == "ru") & (table.arm == "translation")].iloc[0]
    for metric in ("token_fertility", "truncation_gap", "encoder_drift", "alignment_gap"):
        said = wording.metric(metric).show(float(row[metric]))
        assert f">{said}</a>" in text, metric


def test_scripts_are_a_grouping(run: Run) -> None:
    told = alts(show("languages", by="Scripts"))
    [f] = findings(run, "alignment_gap", script="Latin")
    assert f"Latin: {wording.signed(f.estimate or 0.0)}" in told


def test_the_difference_of_each_prompt_is_paired(run: Run) -> None:
    rows = evidence.table(run, "languages")
    english = rows[rows.arm == "english"].set_index(["key", "index"]).clip_alignment
    own = rows[rows.language == "sw"].set_index(["key", "index"]).clip_alignment
    wanted = (own - english).groupby("key").mean()
    with runs.at(0).connect() as database:  # type: ignore[union-attr]
        table = Table(database, "languages")
        total = language_prompts.compare(table, "sw", "translation")
        found = language_prompts.compared(table, slice(0, 99))
        assert language_prompts.compared(table, slice(2, 4)) == found[2:4]
    assert total == len(explorer_run.KEYS)
    assert {row["key"]: row["difference"] for row in found} == pytest.approx(wanted.to_dict())
    assert [row["key"] for row in found] == list(wanted.sort_values().index)
    pairs = sum(row["pairs"] for row in found)
    whole = sum(row["pairs"] * row["difference"] for row in found) / pairs
    [f] = [f for f in findings(run, "alignment_gap", language="sw") if len(f.slice) == 1]
    assert whole == pytest.approx(f.estimate)
    assert pairs == f.n
    text = body(show("languages", language="sw (Latin)"))
    assert f"<b>{wording.signed(float(wanted.min()))}</b>" in text


def test_a_run_without_languages_says_so(tmp_path: Path) -> None:
    from tests.dashboard import synthetic_run

    run = synthetic_run.build(tmp_path / "run", images=20)
    run.write_json("findings.json", [])
    runs.show([run.path])
    assert "compares no languages" in body(show("languages"))
    assert "no shares of perceived attributes" in body(show("bias"))


@pytest.mark.parametrize(
    ("page", "metric", "key", "parameter", "where"),
    [
        ("languages", "alignment_gap", "language", "rows", {}),
        ("bias", "stereotype_shift_female_presenting", "subject",
         "page_stereotype_shift_female_presenting", {"view": "Traits"}),
    ],
)  # fmt: skip
def test_every_row_of_a_long_plot_is_on_one_of_its_pages(
    run: Run, tmp_path: Path, page: str, metric: str, key: str, parameter: str,
    where: dict[str, str],
) -> None:  # fmt: skip
    shutil.copytree(run.path, tmp_path / "many")
    many, names = Run.open(tmp_path / "many"), [f"x{number:03}" for number in range(130)]
    written = [finding.as_dict() for finding in findings(run, "share_female_presenting")]
    written += [
        Finding(page if page == "languages" else "demographics", metric, {key: name},
                -number / 1000, (-1.0, 1.0), n=9, verdict="inconclusive").as_dict()
        for number, name in enumerate(names)
    ]  # fmt: skip
    many.write_json("findings.json", written)
    runs.show([many.path])
    seen: list[str] = []
    for number in range(1, 5):
        test = show(page, **{parameter: str(number)}, **where)
        here = re.findall(r"\b(x\d{3}):", alts(test))
        in_table = re.findall(rf"{key}: (x\d{{3}})", body(test))
        assert set(here) == set(in_table)
        if page == "languages" and number == 3:
            assert [caption.value for caption in test.caption] == [
                "Rows 121 to 130 of 130, those that lose most first."
            ]
        if set(here) <= set(seen):  # there is no such page
            break
        seen += here
    assert sorted(seen) == names


# ---- two runs ----------------------------------------------------------------------------


def test_the_page_shows_what_the_comparison_computes(folders: list[Path]) -> None:
    runs.show(folders)
    wanted = compare(Opened(folders[0]), Opened(folders[1]))
    text = html.unescape(re.sub(r"<[^>]+>", " ", body(show("compare", show="All changes"))))
    text = re.sub(r"\s+", " ", text)
    shown = comparing.ordered(wanted.changes)[:40]
    assert any(change.pairs for change in shown)
    for change in shown:
        if change.estimate is None or change.ci is None:
            continue
        figure = comparing.difference(change, change.estimate)
        ends = " to ".join(comparing.difference(change, bound) for bound in change.ci)
        assert f"{figure} {ends}" in text, change.id
        if change.pairs:
            assert f"{change.pairs:,} pairs · p {change.p_adjusted:.2g}" in text
    counts = body(show("compare"))
    for verdict in ("exceeds", "within", "inconclusive", "not_tested"):
        number = sum(change.verdict == verdict for change in wanted.changes)
        assert f't2i-{verdict}"><span class="t2i-big">{number}</span>' in counts


def test_the_document_is_that_of_the_command(folders: list[Path]) -> None:
    first, second = map(Run.open, folders)
    found = compared.document(first, second)
    wanted = comparing.document(compare(Opened(folders[0]), Opened(folders[1])), [])
    assert found["verdicts"] == wanted["verdicts"]
    assert [row["id"] for row in found["changes"]] == [row["id"] for row in wanted["changes"]]
    for row, other in zip(found["changes"], wanted["changes"], strict=True):
        assert row["estimate"] == pytest.approx(other["estimate"])
        assert row["verdict"] == other["verdict"]


def test_a_planted_change_exceeds_and_what_was_left_alone_is_within(folders: list[Path]) -> None:
    found = compared.document(*map(Run.open, folders))
    changes = {row["id"]: row for row in found["changes"]}
    judge_ = changes["demographics.share_female_presenting[subject=judge]"]
    assert judge_["verdict"] == "exceeds"
    assert changes["languages.alignment_gap[language=sw]"]["verdict"] == "within"
    # The reference and the margin of the drawn change give the same verdict by themselves.
    drawn = compared.change(judge_)
    assert judge(drawn.ci, drawn.reference or 0.0, drawn.threshold or 0.0) == "exceeds"


def test_a_margin_in_the_address_judges_anew(folders: list[Path]) -> None:
    runs.show(folders)
    wanted = compare(Opened(folders[0]), Opened(folders[1]), {"": 0.9})
    number = sum(change.verdict == "within" for change in wanted.changes)
    assert f't2i-within"><span class="t2i-big">{number}</span>' in body(
        show("compare", margin="0.9")
    )


def test_changes_link_to_the_images_of_both_runs(folders: list[Path]) -> None:
    runs.show(folders)
    text = html.unescape(body(show("compare")))
    name = "demographics.share_female_presenting%5Bsubject%3Djudge%5D"
    assert f"/gallery?run=first&finding={name}" in text
    assert f"/gallery?run=second&finding={name}" in text
    assert f"/side_by_side?run=second&vary=Runs&finding={name}" in text


def test_the_setup_that_differs_is_named(folders: list[Path]) -> None:
    runs.show(folders)
    assert re.search(r"sampler guidance</th><td>3</td><td>1.5</td>", body(show("compare")))


def test_one_run_and_the_same_run_twice_are_refused(folders: list[Path]) -> None:
    runs.show(folders[:1])
    assert "t2i-audit view RUN RUN" in body(show("compare"))
    runs.show(folders)
    assert "two different runs" in body(show("compare", second="first"))


def test_runs_that_cannot_be_compared_are_one_line(tmp_path: Path, folders: list[Path]) -> None:
    damaged = explorer_run.build(tmp_path / "damaged")
    damaged.write_json("findings.json", [{"probe": 1}])
    runs.show([folders[0], damaged.path])
    with pytest.raises(AssertionError, match="cannot be compared"):
        show("compare")


def test_the_comparison_leaves_scipy_and_torch_out_of_the_dashboard() -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfrom dashboard import compared\n"
        "from dashboard.views import bias, compare, languages, side_by_side\n"
        "print([m for m in ('torch', 'scipy', 'sklearn', 'statsmodels') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
