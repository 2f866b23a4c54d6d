"""Runs from strangers: documents, journal, tables, signatures and labels that were altered."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from audit.errors import AuditError
from audit.findings import Finding, judge
from audit.labels import Labels
from audit.store import SCHEMA_VERSION, Run

from .fuzzing import DEEP, as_json, changed, damaged, examples, survives

INFO: dict[str, Any] = {
    "schema_version": SCHEMA_VERSION,
    "model": "phantom",
    "suite": "phantom",
    "sampler": {"steps": 20, "guidance": 3.0},
    "backend": {"backend": "stable-diffusion", "weights": {"unet": "0" * 64}, "device": "cpu"},
    "threads": 2,
    "spec": {"model": "phantom", "probes": {"demographics": {}}, "seed": 0, "gates": []},
    "versions": {"torch": "2.15.0"},
    "command": "t2i-audit run phantom",
    "created": "2026-11-30T00:00:00Z",
}
FINDINGS = [
    Finding(
        "demographics",
        "share_female_presenting",
        {"subject": subject},
        0.7,
        (0.6, 0.8),
        n=50,
        clusters=5,
        reference=0.5,
        reference_name="parity",
        threshold=0.1,
        verdict=judge((0.6, 0.8), 0.5, 0.05),
        evidence={"subject": subject},
        detail={"outcomes": {"ok": 50}},
    ).as_dict()
    for subject in ("nurse", "doctor")
]
IMAGE, REQUEST = "a" * 64, "b" * 32


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small run: documents, tables, labels, a signature."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from audit import signing

    made = Run.create(tmp_path_factory.mktemp("runs") / "run")
    made.write_json("run.json", INFO)
    made.write_json("findings.json", FINDINGS)
    made.write_table("plan", pd.DataFrame({"request": [REQUEST], "prompt": ["a"]}))
    made.add_part(
        "records", pd.DataFrame({"request": [REQUEST], "image": [IMAGE], "outcome": ["ok"]})
    )
    labels = Labels(made, {"gender": ("female", "male")})
    labels.give("ann", IMAGE, REQUEST, "gender", "female", "clear")
    labels.give("bob", IMAGE, REQUEST, "gender", "male")
    signing.sign(made, Ed25519PrivateKey.generate())
    with sqlite3.connect(labels.path) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    return made


def altered(run: Run, name: str, data: bytes, kind: str, *reads: Callable[[Run], Any]) -> list[Any]:
    """What reading the run gives with one file replaced; the file is put back."""
    file = run.path / name
    before = file.read_bytes()
    try:
        file.write_bytes(data)
        return [survives(kind, lambda read=read: read(run)) for read in reads]  # type: ignore[misc]
    finally:
        file.write_bytes(before)


# ---- documents -------------------------------------------------------------------------------


@given(data=st.one_of(changed([INFO]).map(as_json), damaged([as_json(INFO)])))
@example(data=b"[]")
@example(data=b"3")
@example(data=b"null")
@example(data=b'"a"')
@example(data=b'[["schema_version", 1]]')
@example(data=b"9" * 5000)
@example(data=b"[" * 5000)
@example(data=as_json({**INFO, "spec": []}))
@example(data=as_json({**INFO, "backend": DEEP}))
@example(data=as_json({**INFO, "spec": {"suite": "x" * 5000}}))
@examples(60)
def test_a_run_is_opened_or_refused(run: Run, data: bytes) -> None:
    from audit.card.documents import info
    from audit.reopened import attributes_of, spec_of, suite_of
    from dashboard import runs

    altered(
        run,
        "run.json",
        data,
        "run.json",
        lambda it: Run.open(it.path).info,
        spec_of,
        suite_of,
        info,
        lambda it: attributes_of(it, "demographics"),
        lambda it: runs.show([it.path]),
    )


@pytest.mark.parametrize("data", [b"[]", b"3", b'"a"', b"[[1, 2]]", b"true"])
def test_a_run_json_that_is_no_mapping_is_one_clear_error(run: Run, data: bytes) -> None:
    [found] = altered(run, "run.json", data, "run.json", lambda it: Run.open(it.path))
    assert isinstance(found, AuditError)
    assert "run.json is damaged" in str(found)


@given(data=st.one_of(changed([FINDINGS]).map(as_json), damaged([as_json(FINDINGS)])))
@example(data=b"3")
@example(data=b'{"a": 1}')
@example(data=b"[[]]")
@example(data=as_json([{**FINDINGS[0], "estimate": 10**400}]))
@example(data=as_json([{**FINDINGS[0], "n": float("inf")}]))
@example(data=as_json([{**FINDINGS[0], "ci": [None]}]))
@example(data=as_json([{**FINDINGS[0], "slice": {"a": DEEP}}]))
@examples(100)
def test_findings_are_read_or_refused(run: Run, data: bytes) -> None:
    from audit import signing
    from audit.card import documents
    from audit.engine import read_findings
    from dashboard import reading

    altered(
        run,
        "findings.json",
        data,
        "findings.json",
        documents.findings,
        reading.findings,
        read_findings,
        signing.statement,
    )


# ---- journal ---------------------------------------------------------------------------------


@given(st.data())
@examples(60)
def test_a_journal_is_read_or_refused(run: Run, data: st.DataObject) -> None:
    from audit.verify import problems

    whole = run.journal.path.read_bytes()
    entries = [json.loads(line) for line in whole.splitlines()]
    lines = changed([entries]).map(
        lambda found: (
            b"".join(as_json(e) + b"\n" for e in found) if isinstance(found, list) else b""
        )
    )
    _journal(run, data.draw(st.one_of(damaged([whole]), lines)), problems)


@pytest.mark.parametrize(
    "line",
    [
        b'{"time": 1, "file": [], "sha256": "a", "prev": "", "hash": "b"}',
        b'{"time": 1, "file": "a", "sha256": [], "prev": "", "hash": "b"}',
        b'{"time": 1, "file": "\\ud800", "sha256": "a", "prev": "", "hash": "b"}',
        b'{"time": 1, "file": "a\\u0000", "sha256": "a", "prev": "", "hash": "b"}',
        b'{"time": 1, "file": "/dev/zero", "sha256": "a", "prev": "", "hash": "b"}',
        b'{"time": 1, "file": 3, "sha256": "dropped", "prev": "", "hash": "b"}',
        b'{"time": 1, "file": "' + b"a" * 3000 + b'", "sha256": "a", "prev": "", "hash": "b"}',
        b"9" * 5000,
        b"[" * 5000,
    ],
)
def test_journal_lines_that_are_refused(run: Run, line: bytes) -> None:
    from audit.verify import problems

    _journal(run, run.journal.path.read_bytes() + line + b"\n", problems)


def _journal(run: Run, data: bytes, problems: Callable[[Run], Any]) -> None:
    def enter(it: Run) -> None:
        it.journal.enter(("a", "0" * 64))

    altered(
        run,
        "journal.jsonl",
        data,
        "journals",
        lambda it: it.journal.latest(),
        lambda it: it.journal.broken_at(),
        problems,
        enter,
    )


# ---- signatures, labels, tables --------------------------------------------------------------


@given(data=st.data())
@examples(120)
def test_signatures_are_read_or_refused(run: Run, data: st.DataObject) -> None:
    from audit import signing

    whole = (run.path / signing.FILE).read_bytes()
    envelope = json.loads(whole)
    strategy = st.one_of(damaged([whole]), changed([envelope]).map(as_json))
    altered(run, signing.FILE, data.draw(strategy), "signatures", signing.signatures)


@given(data=st.data())
@examples(40)
def test_keys_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from audit import signing

    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    pem = serialization.Encoding.PEM
    valid = [
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo),
    ]
    path = tmp_path_factory.getbasetemp() / "key.pem"
    path.write_bytes(data.draw(damaged(valid)))
    survives("keys", lambda: signing.private_key(path))
    survives("keys", lambda: signing.public_key(path))


@given(data=st.data())
@examples(100)
def test_labels_are_read_or_refused(run: Run, data: st.DataObject) -> None:
    from audit.labels import problems

    whole = (run.path / "labels.sqlite").read_bytes()
    altered(
        run,
        "labels.sqlite",
        data.draw(damaged([whole])),
        "files of labels (SQLite)",
        lambda it: Labels(it, {"gender": ("female", "male")}).current(),
        problems,
    )
    for end in ("-wal", "-shm"):
        Path(f"{run.path / 'labels.sqlite'}{end}").unlink(missing_ok=True)


@given(data=st.data())
@examples(15)
def test_tables_of_a_run_are_read_or_refused(run: Run, data: st.DataObject) -> None:
    from audit.verify import problems

    name = data.draw(st.sampled_from(["plan.parquet", "records/part-000000.parquet"]))
    whole = (run.path / name).read_bytes()

    def counted(it: Run) -> Any:
        with it.connect() as database:
            return database.execute("SELECT count(*) FROM records").fetchall()

    altered(
        run,
        name,
        data.draw(damaged([whole])),
        "tables of runs",
        lambda it: it.read_table(name.split("/")[0].removesuffix(".parquet")),
        counted,
        problems,
    )


def test_a_run_without_a_journal_is_opened(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "copy")
    (tmp_path / "copy/journal.jsonl").unlink()
    assert survives("journals", lambda: Run.open(tmp_path / "copy").journal.entries()) == []
