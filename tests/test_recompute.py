"""Findings with people's labels: from the run alone, with a known answer, before and after kept."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from audit import engine
from audit.cli import cli
from audit.errors import AuditError
from audit.label_files import read_labels
from audit.labels import Labels
from audit.recompute import CSV, DOCUMENT, PROBE, changes, recompute
from audit.reopened import attributes_of, keep_suite, spec_of, study_of, suite_of
from audit.store import Run
from audit.suites import Suite
from audit.verify import problems
from probes.demographics import Demographics
from tests.dashboard import labelled_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict, object]:
    """A labelled run, what recomputing it gave, and the rows that were labelled."""
    run = labelled_run.build(tmp_path_factory.mktemp("recompute") / "run")
    engine.analyse(run, study_of(run), {PROBE: Demographics()})
    rows = labelled_run.label_some(run)
    return run, recompute(run), rows


def share(rows: list[dict], subject: str) -> dict:
    [found] = [
        row
        for row in rows
        if row["metric"] == "share_female_presenting" and row["slice"].get("subject") == subject
    ]
    return found


@pytest.mark.parametrize("job", labelled_run.JOBS)
def test_a_share_becomes_the_prediction_powered_one(made, job: str):
    run, document, rows = made
    frame = labelled_run.truth(run)
    mine = frame[frame.subject == job]
    known = mine.index.isin(rows.index)
    y, f = (mine[known].true == "female"), (mine[known].said == "female")
    rest = (mine[~known].said == "female").mean()
    before, after = share(document["before"], job), share(document["after"], job)
    assert before["estimate"] == pytest.approx((mine.said == "female").mean())
    assert (y != f).sum() < 10  # so that the plain form of the paper holds
    assert after["estimate"] == pytest.approx(min(1, max(0, rest + y.mean() - f.mean())))
    assert after["estimate"] != before["estimate"]
    assert "PPI, score intervals, labels.csv; one rater" in after["corrected_for"]
    assert before["corrected_for"] is None


def test_it_is_what_the_spec_s_labels_give(made):
    run, document, _ = made
    study = study_of(run, demographics={"labels": str(run.path / CSV)})
    found = [f.as_dict() for f in Demographics().analyse(run, study).findings]
    assert json.loads(json.dumps(document["after"])) == json.loads(json.dumps(found))
    assert [row for row in run.read_json("findings.json") if row["probe"] == PROBE] == found


def test_before_and_after_are_kept_and_everything_holds(made):
    run, document, _ = made
    assert run.read_json(DOCUMENT) == json.loads(json.dumps(document))
    found = problems(run)[0]
    assert [line for line in found if "label" in line or "json" in line] == []
    assert document["labels"]["count"] == 72 and document["labels"]["raters"] == ["anna"]
    changed = {change.id for change in changes(document["before"], document["after"])}
    assert f"{PROBE}.share_female_presenting[subject=nurse]" in changed
    assert not any("glasses" in name for name in changed)


def test_the_export_is_read_by_the_reader_of_labels(made):
    run, _, rows = made
    given = read_labels(run.path / CSV, attributes_of(run, PROBE))
    assert given.key == "image" and list(given.majority) == ["gender"]
    assert given.majority["gender"].to_dict() == rows.true.to_dict()


def test_again_keeps_the_first_before_and_no_label_gives_it_back(tmp_path: Path):
    run = labelled_run.build(tmp_path / "run", images=40)
    engine.analyse(run, study_of(run), {PROBE: Demographics()})
    first = run.read_json("findings.json")
    labelled_run.label_some(run, 25)
    one = recompute(run)
    labels = Labels(run, attributes_of(run, PROBE))
    labels.withdraw("anna", labels.last("anna", "gender").id)
    two = recompute(run)
    assert one["before"] == two["before"] == first
    assert one["after"] != two["after"] != first
    while last := labels.last("anna", "gender"):
        labels.withdraw("anna", last.id)
    assert recompute(run)["after"] == first == run.read_json("findings.json")
    assert problems(run)[0] == []


def test_two_raters_are_a_row_each_and_their_agreement_is_told(tmp_path: Path):
    run = labelled_run.build(tmp_path / "run", images=50)
    rows = labelled_run.label_some(run, 21)
    labels = Labels(run, attributes_of(run, PROBE))
    for image in rows.index[:40]:
        labels.give("ben", image, "r", "gender", rows.true[image])
        labels.give("ben", image, "r", "glasses", "undetermined")
    done = CliRunner().invoke(
        cli, ["labels", str(run.path), "export", "--out", str(tmp_path / "x")]
    )
    assert done.exit_code == 0, done.output
    given = read_labels(tmp_path / "x", attributes_of(run, PROBE))
    assert given.agreement["gender"].alpha == 1 and given.agreement["gender"].raters == 2
    assert set(given.majority["glasses"]) == {"undetermined"}
    told = share(recompute(run)["after"], "nurse")["corrected_for"]
    assert "Krippendorff's α 1.000" in told


def test_files_that_the_settings_name_are_read_only_when_allowed(tmp_path: Path):
    run = labelled_run.build(tmp_path / "run", images=30)
    labelled_run.label_some(run, 21)
    info = run.info
    info["spec"]["probes"] = {PROBE: {"detector_error": "/etc/passwd", "reference": "/x/y.csv"}}
    run.write_json("run.json", info)
    with pytest.raises(
        AuditError, match=r"settings name files: /etc/passwd, /x/y\.csv; add --read"
    ):
        recompute(run)
    with pytest.raises(AuditError, match=r"cannot read .*y\.csv"):
        recompute(run, read_files=True)
    assert not (run.path / "findings.json").exists()


def test_a_run_that_another_process_writes_is_one_clear_line(tmp_path: Path):
    run = labelled_run.build(tmp_path / "run", images=20)
    with run.lock(), pytest.raises(AuditError, match="another process is writing"):
        recompute(run)


def test_a_read_only_run_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = labelled_run.build(tmp_path / "run", images=20)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(AuditError, match="is read-only: copy the run"):
        recompute(run)


@pytest.mark.parametrize("name", ["tables", CSV, DOCUMENT, "findings.json"])
def test_a_link_in_the_run_is_not_written_through(tmp_path: Path, name: str):
    run = labelled_run.build(tmp_path / "run", images=20)
    (run.path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AuditError, match="is a link: the run is not changed"):
        recompute(run)
    assert not (tmp_path / "elsewhere").exists()


def test_no_model_library_is_imported(tmp_path: Path):
    run = labelled_run.build(tmp_path / "run", images=20)
    code = (
        "import sys; from pathlib import Path; from audit.store import Run; "
        "from audit.recompute import recompute; recompute(Run.open(Path(sys.argv[1]))); "
        "print(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(run.path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_verify_names_a_label_that_was_edited(tmp_path: Path):
    run = labelled_run.build(tmp_path / "run", images=2)
    labelled_run.label_some(run, 1)
    assert CliRunner().invoke(cli, ["verify", str(run.path)]).exit_code == 0
    with closing(sqlite3.connect(run.path / "labels.sqlite")) as database:
        [(sql,)] = database.execute("SELECT sql FROM sqlite_schema WHERE name = 'labels_stay'")
        database.execute("DROP TRIGGER labels_stay")
        database.execute("UPDATE labels SET label = 'undetermined' WHERE id = 2")
        database.execute(sql)
        database.commit()
    done = CliRunner().invoke(cli, ["verify", str(run.path)])
    assert "labels.sqlite: label 2 was changed after it was given" in done.output
    assert done.exit_code == 1


# ---- the run's own study ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"spec": {"steps": "x"}}, "spec is damaged: --steps: steps must be a whole number"),
        ({"spec": {"probes": 5}}, "spec is damaged"),
        ({"spec": ["x"]}, "spec is damaged"),
    ],
)
def test_damaged_settings_are_one_clear_line(tmp_path: Path, damage: dict, message: str):
    run = labelled_run.build(tmp_path / "run", images=3)
    run.write_json("run.json", run.info | damage)
    with pytest.raises(AuditError, match=message):
        spec_of(run)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"content": []}, "holds no sections"),
        ({"content": {"attributes": [1]}}, "holds no sections"),
        ({"content": {"demographics": {"attributes": ["gender"]}}}, "no labels of the attribute"),
        (
            {
                "content": {
                    "demographics": {"attributes": ["a"]},
                    "attributes": {"a": {"labels": ["x"] * 200}},
                }
            },
            "cannot be chosen from",
        ),
        ([], "holds no sections"),
    ],
)
def test_a_damaged_suite_is_one_clear_line(tmp_path: Path, content: object, message: str):
    run = labelled_run.build(tmp_path / "run", images=3)
    run.write_json("suite.json", content)
    with pytest.raises(AuditError, match=message):
        attributes_of(run, PROBE)


def test_a_suite_is_kept_as_its_readers_take_it(tmp_path: Path):
    run = labelled_run.build(tmp_path / "run", images=3)
    content = yaml.safe_load(
        "attributes: {worn: {labels: {yes: [a hat], no: [no hat]}, day: 2026-11-01, far: .inf}}\n"
        "demographics: {attributes: [worn]}\nempty:\n"
    )
    keep_suite(run, Suite("mine", "about", content))
    labels = tuple(str(label) for label in content["attributes"]["worn"]["labels"])
    assert attributes_of(run, PROBE) == {"worn": labels}
    kept = suite_of(run)
    assert (kept.name, kept.about) == ("mine", "about")
    assert kept.section("attributes")["worn"]["far"] == "inf" and kept.section("empty") == {}
    assert problems(run)[0] == []


def test_a_run_without_its_suite_takes_the_shipped_one_and_no_file(tmp_path: Path):
    run = labelled_run.build(tmp_path / "run", images=3)
    (run.path / "suite.json").unlink()
    run.write_json("run.json", run.info | {"suite": "phantom"})
    assert suite_of(run).name == "phantom"
    info = run.info
    info["spec"]["suite"] = "/etc/secret.yaml"
    run.write_json("run.json", info)
    with pytest.raises(AuditError, match="run its command again"):
        suite_of(run)
