"""A run that may come from anyone: what is damaged is said in one line, by the card and compare."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from card_run import build

from audit.card import write
from audit.card.claims import check, read
from audit.compare import Opened, compare
from audit.errors import AuditError
from audit.findings import Finding
from audit.store import Run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("damaged") / "run", images=1).path


FINDING = Finding("p", "m").as_dict()


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("findings.json", "[{", "findings.json is damaged: Expecting"),
        ("findings.json", '{"a": 1}', "it is no list of findings"),
        ("findings.json", '[{"probe": 3}]', "finding 1 is damaged: probe and metric are names"),
        ("findings.json", "[[]]", "finding 1 is damaged: it is no mapping"),
        ("findings.json", json.dumps([FINDING, FINDING | {"n": -1}]), "finding 2 .*: n is no cou"),
        ("findings.json", json.dumps([FINDING | {"slice": "x"}]), "slice is no mapping"),
        ("detectors.json", "[1, 2]", "detectors.json is damaged: it is no mapping of names"),
        ("detectors.json", '{"clip": 3}', "detectors.json is damaged: it is no mapping of names"),
        ("plan.parquet", "no table", "a table of .* is damaged: .*plan.parquet"),
    ],
)
def test_a_damaged_part_of_a_run_is_one_line(
    whole: Path, tmp_path: Path, file: str, content: str, said: str
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / file).write_text(content)
    for do in (
        lambda: write(Run.open(tmp_path / "run"), ["json"], out=tmp_path / "out"),
        lambda: compare(Opened(whole), Opened(tmp_path / "run")),
    ):
        with pytest.raises(AuditError, match=said) as error:
            do()
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("gates.json", '{"x": 1}', "gates.json is damaged: it is no list of gates"),
        ("energy.json", '{"steps": {"generate": 5}}', "its steps are no mappings"),
        ("tables/memorization.duplication.parquet", "no table", "is damaged: .*duplication"),
        ("run.json", '{"schema_version": 1, "backend": 3}', "its backend is no mapping"),
        ("run.json", '{"schema_version": 9}', "has schema version 9, this version reads 1"),
    ],
)
def test_what_the_card_alone_reads_is_checked_too(
    whole: Path, tmp_path: Path, file: str, content: str, said: str
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / file).write_text(content)
    with pytest.raises(AuditError, match=said) as error:
        write(Run.open(tmp_path / "run"), out=tmp_path / "out")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("data", [b"", b"\xff\xfe\x00", b"\n\n", b"---\n---\n"])
def test_a_card_without_a_sentence_makes_no_claim(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "CARD.md"
    path.write_bytes(data)
    document = check(read(path), ())
    assert document["claims"] == []
    assert document["counts"]["statements"] <= 1


def test_metadata_of_infinite_emissions_agree_with_nothing(tmp_path: Path) -> None:
    path = tmp_path / "CARD.md"
    path.write_text(
        "---\nco2_eq_emissions: .inf\n---\n# M\n\n## Impact\n\n- Carbon emitted: 5 kg\n"
    )
    assert [one["kind"] for one in check(read(path), ())["claims"]] == ["co2"]
