"""The card says what the run holds: every number, nothing else, and no text breaks out of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from card_run import COPIES, HOSTILE, LANGUAGES, OCCUPATIONS, build
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from markdown_it import MarkdownIt

from audit.card import FORMATS, write
from audit.card.sections import PROBES
from audit.errors import AuditError
from audit.store import Run
from audit.verify import problems
from tests.pages import Page, agrees, wrong_numbers


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = build(tmp_path_factory.mktemp("card") / "run")
    write(made)
    return made


@pytest.fixture(scope="module")
def html(run: Run) -> Page:
    return Page.of((run.path / "card/card.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def readme(run: Run) -> str:
    return (run.path / "card/README.md").read_text(encoding="utf-8")


def findings(run: Run) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in json.loads((run.path / "findings.json").read_text())}


def markdown_tables(readme: str) -> list[list[list[str]]]:
    """Every table of the README as rows of cells."""
    parser = MarkdownIt("commonmark").enable("table")
    tables: list[list[list[str]]] = []
    inside = False
    for token in parser.parse(body(readme)):
        if token.type == "table_open":
            tables.append([])
            inside = True
        elif token.type == "table_close":
            inside = False
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "inline" and inside:
            tables[-1][-1].append("".join(part.content for part in token.children or []))
    return tables


def body(readme: str) -> str:
    return readme.split("\n---\n", 1)[1]


# ---- numbers ---------------------------------------------------------------------------------


def test_every_number_beside_a_finding_is_that_findings_number(run: Run, html: Page) -> None:
    wrong, checked = wrong_numbers(html, findings(run))
    assert wrong == []
    assert checked > 150


def test_every_finding_with_an_estimate_is_shown_with_its_interval(run: Run, html: Page) -> None:
    shown: dict[str, set[float]] = {}
    for element in html.all("data"):
        if element["row"] is not None:
            name = element["row"]["attrs"].get("data-finding", "")
            shown.setdefault(name, set()).add(float(element["attrs"]["value"]))
    for name, finding in findings(run).items():
        if finding["estimate"] is not None:
            wanted = {finding["estimate"], finding["n"], *(finding["ci"] or ())}
            assert wanted <= shown[name], name


def test_the_markdown_tables_hold_the_same_numbers(run: Run, readme: str) -> None:
    known = findings(run)
    rows = {cells[0]: cells for table in markdown_tables(readme) for cells in table[1:]}
    for name, (share, _) in list(OCCUPATIONS.items())[:-1]:
        finding = known[f"demographics.share_female_presenting[occupation={name}]"]
        table = next(t for t in markdown_tables(readme) if t[0][0] == "Occupation")
        cells = dict(zip(table[0], next(r for r in table if r[0] == name), strict=True))
        printed = re.findall(r"[−\d.]+%", cells["Estimate"])
        assert all(map(agrees, printed, [share, *finding["ci"]]))
        assert cells["Images"] == "98"
        assert cells["Verdict"] == finding["verdict"]
    assert agrees(rows["Русский"][1].split()[0], LANGUAGES["Русский"])


def test_the_summary_counts_every_finding_once(run: Run, readme: str) -> None:
    table = next(t for t in markdown_tables(readme) if t[0][0] == "Measured")
    counted = [sum(int(row[column]) for row in table[1:]) for column in (2, 3, 4, 5)]
    verdicts = [finding["verdict"] for finding in findings(run).values()]
    wanted = [verdicts.count(v) for v in ("exceeds", "within", "inconclusive", "not_tested")]
    assert counted == wanted


def test_numbers_outside_the_findings_come_from_the_records(run: Run, readme: str) -> None:
    records, plan = run.read_table("records"), run.read_table("plan")
    table = next(t for t in markdown_tables(readme) if t[0][0] == "Outcome")
    outcomes = {row[0]: int(row[1]) for row in table[1:]}
    assert outcomes == {
        "ok": (records.outcome == "ok").sum(),
        "failed": (records.outcome == "failed").sum(),
        "missing": 1,
    }
    assert sum(outcomes.values()) == len(plan)
    assert f"took {records.seconds.sum():,.1f} seconds" in readme


def test_the_json_card_holds_the_findings_unchanged(run: Run) -> None:
    document = json.loads((run.path / "card/card.json").read_text(encoding="utf-8"))
    for row, finding in zip(document["findings"], findings(run).values(), strict=True):
        ci = finding["ci"] if finding["ci"] and None not in finding["ci"] else None
        assert row == finding | {"ci": ci, "evidence_query": row["evidence_query"]}
        assert row["evidence_query"].startswith(f"?page=gallery&probe={finding['probe']}")


def test_a_nan_is_never_printed(run: Run) -> None:
    for name in ("README.md", "card.html", "card.json"):
        source = (run.path / "card" / name).read_text(encoding="utf-8")
        visible = source.replace("(NaN)", "")  # the words of a record's error
        assert not re.search(r"\b(nan|NaN|inf|None)\b", visible), name


# ---- front matter ----------------------------------------------------------------------------


def test_the_front_matter_round_trips_through_the_hubs_classes(run: Run, readme: str) -> None:
    metadata = yaml.safe_load(readme.split("---\n")[1])
    assert metadata["library_name"] == "diffusers"
    assert metadata["pipeline_tag"] == "text-to-image"
    assert "license" not in metadata
    card = ModelCard(readme)
    assert yaml.safe_load(card.data.to_yaml()) == metadata
    name, results = model_index_to_eval_results(metadata["model-index"])
    assert name == "phantom"
    measured = [f for f in findings(run).values() if f["estimate"] is not None]
    assert len(results) == len(measured)
    for result, finding in zip(results, measured, strict=True):
        assert result.metric_value == finding["estimate"]
        assert result.metric_args["n"] == finding["n"]
        assert result.metric_args.get("ci95") == finding["ci"]
        assert "guidance=3.0" in result.dataset_config
        assert "sampler=DPMSolverMultistep" in result.dataset_config


def test_findings_left_out_of_the_metadata_are_named(readme: str) -> None:
    assert "Findings without an estimate, 3 of 33, are left out" in readme
    assert "demographics.share_glasses" in readme.split("without an estimate")[1]


def test_a_known_license_is_stated(tmp_path: Path) -> None:
    made = build(tmp_path / "run", images=1, tables=False)
    info = made.info
    info["backend"]["license"] = "apache-2.0"
    made.write_json("run.json", info)
    readme = write(made, ["md"])["md"].read_text(encoding="utf-8")
    assert yaml.safe_load(readme.split("---\n")[1])["license"] == "apache-2.0"


# ---- hostile text ----------------------------------------------------------------------------


def test_the_page_is_well_formed(html: Page) -> None:
    assert html.faults == []
    names = [e["attrs"]["id"] for e in html.elements if "id" in e["attrs"]]
    assert len(names) == len(set(names))
    for link in html.all("a"):
        assert link["attrs"]["href"].removeprefix("#") in names
    for drawing in html.all("svg"):
        assert set(drawing["attrs"]["aria-labelledby"].split()) <= set(names)


def test_the_page_fetches_nothing_and_runs_nothing(html: Page) -> None:
    assert not html.all(
        "script", "iframe", "object", "embed", "link", "form", "base", "foreignobject"
    )
    for element in html.elements:
        for name, value in element["attrs"].items():
            assert not name.startswith("on"), element
            if name in ("src", "href", "xlink:href", "srcset", "action", "style"):
                assert name in ("src", "href")
                assert value.startswith(("#", "data:image/webp;base64,")), value
    style = html.all("style")[0]["text"]
    assert "url(" not in style
    assert "@import" not in style


def test_prompts_are_shown_as_they_are_and_nothing_of_them_is_markup(html: Page) -> None:
    text = " ".join(element["text"] for element in html.all("body"))
    assert '<script>alert("x")</script>' in text
    assert "</svg></style><img src=x onerror=alert(1)> &lt;b&gt; {{ 7 * 7 }}" in text
    assert "\u202e" not in text
    assert not [e for e in html.all("b", "i") if e["tag"]]


def test_markdown_made_of_the_run_holds_no_markup_of_its_prompts(readme: str) -> None:
    parser = MarkdownIt("commonmark").enable("table")
    kinds = set()
    for token in parser.parse(body(readme)):
        for part in [token, *(token.children or [])]:
            kinds.add(part.type)
    assert not kinds & {"html_block", "html_inline", "link_open", "image", "bullet_list_open"}
    assert not re.search(r"(?<!`)https?://|(?<!\\)\]\(", body(readme))


def test_no_cell_of_the_run_breaks_a_markdown_table(readme: str) -> None:
    for table in markdown_tables(readme):
        assert len({len(row) for row in table}) == 1
        assert len(table) > 1
    florist = list(OCCUPATIONS)[-1]
    table = next(t for t in markdown_tables(readme) if t[0][0] == "Occupation")
    assert florist in [row[0] for row in table]


def test_the_command_is_copied_as_it_is(run: Run, html: Page, readme: str) -> None:
    command = run.info["command"]
    assert command in [e["text"].strip() for e in html.all("pre")]
    assert f"```sh\n{command}\n```" in readme


# ---- what is missing -------------------------------------------------------------------------


def test_what_was_not_tested_is_said(readme: str) -> None:
    section = readme.split("## What was not tested and what failed")[1].split("\n## ")[0]
    assert "its weights are &lt;not&gt; here \\| at all" in section
    assert "Watermark and provenance" in section
    assert "the latent is not &lt;finite&gt; (NaN)" in section
    assert "non-binary people" in section


def test_missing_tables_leave_their_figures_out(tmp_path: Path) -> None:
    made = build(tmp_path / "run", images=1, tables=False)
    page = Page.of(write(made, ["html"])["html"].read_text(encoding="utf-8"))
    titles = [e["text"] for e in page.all("title") if "svg" in e["inside"]]
    assert any("by duplicates" in title for title in titles)  # a forest takes the curve's place
    assert not any("in the training data" in title for title in titles)
    assert not any("Filters:" in title for title in titles)


def test_a_run_that_holds_next_to_nothing_still_has_a_card(tmp_path: Path) -> None:
    made = Run.create(tmp_path / "run")
    made.write_json("run.json", {"schema_version": 1, "model": "/home/me/models/mine"})
    written = write(made)
    readme = written["md"].read_text(encoding="utf-8")
    assert readme.count("**Not tested.**") == len(PROBES)
    assert "# mine Model Card" in readme
    assert "model-index" not in readme.split("---\n")[1]
    assert Page.of(written["html"].read_text(encoding="utf-8")).faults == []


def test_only_the_developers_can_write_what_the_run_does_not_hold(readme: str) -> None:
    for title in ("Direct Use", "Training Data", "Training Procedure", "Citation"):
        section = re.split(r"\n#+ ", readme.split(f"# {title}\n")[1])[0]
        assert section.strip() == "To be written by the developers."


# ---- pictures --------------------------------------------------------------------------------


def test_flagged_images_are_blurred_before_they_are_embedded(run: Run, html: Page) -> None:
    from audit.card.pictures import thumbnail

    flagged = run.read_table("detections/safety-checker").query("flagged").image.unique()
    sharp = {thumbnail(run.load_image(digest), False) for digest in flagged}
    shown = {image["attrs"]["src"] for image in html.all("img")}
    blurred = {thumbnail(run.load_image(digest), True) for digest in flagged}
    assert blurred <= shown
    assert not sharp & shown
    for image in html.all("img"):
        assert image["attrs"]["alt"].startswith(
            "Blurred image" if image["attrs"].get("class") == "blurred" else "Image"
        )


def test_the_sheet_takes_the_first_seeds_in_plan_order(html: Page) -> None:
    prompts = [e["text"] for e in html.all("p") if e["attrs"].get("class") == "prompt"]
    wanted = [f"a portrait of a {name}" for name in OCCUPATIONS]
    assert prompts[:12] == wanted
    labels = [e["text"] for e in html.all("figcaption") if e["inside"].count("figure") == 2]
    assert [label.split(",")[0] for label in labels[:4]] == ["seed 0", "seed 1"] * 2
    assert any("Here 12 of 17 prompts" in e["text"] for e in html.all("figcaption"))


def test_a_failed_image_has_its_place_in_the_sheet(html: Page) -> None:
    assert "failed" in [e["text"] for e in html.all("div") if e["attrs"].get("class") == "instead"]


def test_pairs_are_at_most_six_the_most_similar_first(html: Page) -> None:
    pairs = [e["text"] for e in html.all("p") if "similarity" in e["text"]]
    similar = [float(re.findall(r"similarity ([\d.]+)", text)[-1]) for text in pairs]
    assert len(pairs) == 6
    assert similar == sorted(similar, reverse=True)
    assert HOSTILE[0] in pairs[0]


# ---- the files -------------------------------------------------------------------------------


def test_the_same_run_gives_the_same_bytes(run: Run) -> None:
    before = {path.name: path.read_bytes() for path in (run.path / "card").iterdir()}
    assert before == {path.name: path.read_bytes() for path in write(run).values()}


def test_the_card_is_entered_in_the_journal(run: Run) -> None:
    assert {f"card/{name}" for name in ("README.md", "card.html", "card.json")} <= {
        entry["file"] for entry in run.journal.entries()
    }
    assert [line for line in problems(run)[0] if "card" in line or "journal" in line] == []


def test_only_the_asked_formats_are_written(tmp_path: Path) -> None:
    made = build(tmp_path / "run", images=1, tables=False)
    assert list(write(made, ["json"])) == ["json"]
    assert [path.name for path in (made.path / "card").iterdir()] == ["card.json"]
    assert FORMATS == ("md", "html", "json", "cyclonedx", "eval-results")


def test_an_unknown_format_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    made = build(tmp_path / "run", images=1, tables=False)
    with pytest.raises(AuditError, match="no card format 'docx'; there are: md, html, json"):
        write(made, ["md", "docx"])
    assert not (made.path / "card").exists()


def test_a_damaged_image_leaves_a_place_that_says_so(tmp_path: Path) -> None:
    made = build(tmp_path / "run", images=1, tables=False)
    digest = made.read_table("records").image.dropna().iloc[0]
    made.image_path(digest).write_bytes(b"no image")
    html = write(made, ["html"])["html"].read_text(encoding="utf-8")
    assert "image missing or damaged" in html


def test_copies_of_the_duplication_curve_are_those_of_the_table(html: Page) -> None:
    drawn = [e["text"] for e in html.all("desc") if "copies: " in e["text"]]
    assert all(f"{copies} copies: " in drawn[0] for copies in COPIES)
