"""A later change to a run is named, also by whoever writes the journal anew; a signature holds."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import Image

from audit import engine, recheck, signing
from audit.commands.sign import sign
from audit.errors import AuditError
from audit.journal import DROPPED, Journal
from audit.labels import Labels
from audit.recompute import recompute
from audit.reopened import attributes_of
from audit.spec import Spec
from audit.store import Run, encode
from audit.verify import problems


@pytest.fixture(scope="module")
def finished(tiny_model: Path, tiny_suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = Spec(
        model=str(tiny_model),
        suite=str(tiny_suite),
        batch_size=4,
        images_per_prompt=2,
        probes={"demographics": {}},
    )
    return engine.run(*engine.prepare(spec), tmp_path_factory.mktemp("evidence") / "run").path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Run:
    return Run(shutil.copytree(finished, tmp_path / "run"))


def forge(run: Run) -> None:
    """Write the journal anew from what lies there, as one would who hides a change."""
    run.journal.path.unlink()
    for name in run.documents():
        digest = hashlib.sha256((run.path / name).read_bytes()).hexdigest()
        Journal(run.journal.path).enter((name, digest))


def rewrite(run: Run, name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    path = next(run.path.glob(name))
    change(pd.read_parquet(path)).to_parquet(path, index=False)
    forge(run)


def other_prompt(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(prompt=["another", *frame.prompt[1:]])


def swapped(frame: pd.DataFrame) -> pd.DataFrame:
    images = frame.image.tolist()
    return frame.assign(image=[images[1], images[0], *images[2:]])


CHANGES: dict[str, tuple[str, Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "another prompt": ("plan.parquet", other_prompt, "the id is not that of the request"),
    "a planned row twice": ("plan.parquet", lambda f: pd.concat([f, f[:1]]), "plan.parquet: twice"),
    "a planned row less": ("plan.parquet", lambda f: f[1:], "not in the plan"),
    "a record twice": ("records/*", lambda f: pd.concat([f, f[:1]]), "records: twice"),
    "an image taken out": ("records/*", lambda f: f.assign(image=None), "without the outcome"),
    "images swapped": ("records/*", swapped, "scores of another image"),
    "a score twice": ("detections/clip/*", lambda f: pd.concat([f, f[:1]]), "clip: twice"),
    "a use invented": (
        "uses/demographics.parquet",
        lambda f: f.assign(request=["0" * 32, *f.request[1:]]),
        "uses_demographics: not in the plan",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_tables_that_do_not_fit_are_named_although_the_journal_is_new(run: Run, what: str):
    file, change, said = CHANGES[what]
    assert problems(run)[0] == []
    rewrite(run, file, change)
    found = problems(run)[0]
    assert any(said in line for line in found), found
    assert not any("journal" in line or "changed after" in line for line in found)


def test_a_swapped_thumbnail_is_named(run: Run):
    one, *_ = sorted(run.path.glob("thumbs/*/*.webp"))
    one.write_bytes(encode(Image.new("RGB", (32, 32), "teal")).thumbnail)
    [line] = problems(run)[0]
    assert line == f"{one.relative_to(run.path).as_posix()}: shows another image"
    one.unlink()
    assert problems(run)[0] == [f"{one.relative_to(run.path).as_posix()}: missing"]


def keys(folder: Path) -> tuple[Path, Path]:
    """A key pair in PEM, as openssl genpkey writes it."""
    made = Ed25519PrivateKey.generate()
    private, public = folder / "key.pem", folder / "key.pub.pem"
    private.write_bytes(
        made.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        made.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


def test_a_signature_is_in_toto_in_dsse(run: Run, tmp_path: Path):
    private, public = keys(tmp_path)
    signing.sign(run, signing.private_key(private))
    [line] = (run.path / signing.FILE).read_text().splitlines()
    envelope = json.loads(line)
    payload = base64.b64decode(envelope["payload"])
    # The pre-authentication encoding by the letter of the DSSE specification.
    kind = envelope["payloadType"]
    signed = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    key = serialization.load_pem_public_key(public.read_bytes())
    [mark] = envelope["signatures"]
    key.verify(base64.b64decode(mark["sig"]), signed)
    said = json.loads(payload)
    assert said["_type"] == "https://in-toto.io/Statement/v1"
    digests = {each["name"]: each["digest"]["sha256"] for each in said["subject"]}
    for name in ("plan.parquet", "findings.json", "journal.jsonl"):
        assert digests[name] == hashlib.sha256((run.path / name).read_bytes()).hexdigest()
    assert set(run.documents()) <= set(digests)
    assert problems(run)[0] == []


def test_a_signature_shows_what_a_new_journal_hides(run: Run, tmp_path: Path):
    private, public = keys(tmp_path)
    signing.sign(run, signing.private_key(private))
    key = signing.public_key(public)
    assert signing.problems(run, key) == []
    findings = run.read_json("findings.json")
    findings[0]["estimate"] = 0.5
    (run.path / "findings.json").write_text(json.dumps(findings))
    forge(run)
    assert problems(run)[0] == []
    assert signing.problems(run, key) == ["findings.json: changed after it was signed"]


def test_what_comes_or_goes_after_the_signature_is_named(run: Run, tmp_path: Path):
    private, public = keys(tmp_path)
    signing.sign(run, signing.private_key(private))
    key = signing.public_key(public)
    run.journal.enter(("gates.json", DROPPED))
    (run.path / "gates.json").unlink()
    run.write_json("more.json", {})
    assert signing.problems(run, key) == [
        "gates.json: was signed and is gone",
        "more.json: came after the signature",
    ]
    signing.sign(run, signing.private_key(private))
    assert signing.problems(run, key) == []
    run.journal.enter(("more.json", DROPPED))
    run.journal.enter(("more.json", hashlib.sha256(b"{}").hexdigest()))
    assert signing.problems(run, key) == ["journal.jsonl: has entries that were not signed"]


def test_two_people_sign_and_another_key_is_not_theirs(run: Run, tmp_path: Path):
    pairs = []
    for name in ("one", "two", "third"):
        (tmp_path / name).mkdir()
        pairs.append(keys(tmp_path / name))
    for private, _ in pairs[:2]:
        signing.sign(run, signing.private_key(private))
    for _, public in pairs[:2]:
        assert signing.problems(run, signing.public_key(public)) == []
    [line] = signing.problems(run, signing.public_key(pairs[2][1]))
    assert "no signature of the key" in line
    path = run.path / signing.FILE
    first, second = map(json.loads, path.read_text().splitlines())
    first["signatures"][0]["sig"] = second["signatures"][0]["sig"]
    path.write_text(json.dumps(first) + "\n" + json.dumps(second) + "\n")
    [line] = signing.problems(run, signing.public_key(pairs[0][1]))
    assert "does not hold" in line


def test_a_run_that_does_not_hold_is_not_signed(run: Run, tmp_path: Path):
    private, _ = keys(tmp_path)
    runner = CliRunner()
    (run.path / "findings.json").write_text("[]")
    result = runner.invoke(sign, [str(run.path), "--key", str(private)])
    assert "not signed: 1 things do not hold" in str(result.exception)
    assert not (run.path / signing.FILE).exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "signatures.intoto.jsonl:1 is damaged"),
        ('{"payloadType": "text/plain", "payload": "", "signatures": []}', "is damaged"),
        ("[" * 100_000, "is damaged"),
    ],
)
def test_a_damaged_file_of_signatures_is_one_clear_line(run: Run, text: str, said: str):
    (run.path / signing.FILE).write_text(text)
    with pytest.raises(AuditError, match=said):
        signing.signatures(run)


def test_wrong_keys_are_refused_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from cryptography.hazmat.primitives.asymmetric import rsa

    private, public = keys(tmp_path)
    with pytest.raises(AuditError, match="is a private key: give the public one"):
        signing.public_key(private)
    with pytest.raises(AuditError, match="is no private key"):
        signing.private_key(public)
    with pytest.raises(AuditError, match="cannot read the key"):
        signing.public_key(tmp_path / "none.pem")
    secret = serialization.BestAvailableEncryption(b"open")
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret
        )
    )
    with pytest.raises(AuditError, match="protected by a password"):
        signing.private_key(locked)
    with pytest.raises(AuditError, match="or the password is wrong"):
        signing.private_key(locked, b"shut")
    assert signing.private_key(locked, b"open")
    other = tmp_path / "rsa.pem"
    other.write_bytes(
        rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    with pytest.raises(AuditError, match="is no Ed25519 key"):
        signing.private_key(other)


def test_openssh_keys_are_read_too(run: Run, tmp_path: Path):
    made = Ed25519PrivateKey.generate()
    private, public = tmp_path / "id_ed25519", tmp_path / "id_ed25519.pub"
    private.write_bytes(
        made.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        made.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
    )
    signing.sign(run, signing.private_key(private))
    assert signing.problems(run, signing.public_key(public)) == []


def test_findings_that_do_not_follow_from_the_raw_scores_are_named(run: Run):
    assert recheck.problems(run) == []
    findings = run.read_json("findings.json")
    place = next(i for i, row in enumerate(findings) if row["estimate"] is not None)
    name = findings[place]["id"]
    findings[place]["estimate"] += 0.01
    run.write_json("findings.json", findings)
    [line] = recheck.problems(run)
    assert line.startswith(f"findings.json: {name}: estimate ")
    run.write_json("findings.json", findings[:place] + findings[place + 1 :])
    assert recheck.problems(run) == [f"findings.json: {name} is missing"]
    run.write_json("findings.json", [*findings, {**findings[place], "id": "made.up"}])
    assert "findings.json: made.up does not come out of the raw scores" in recheck.problems(run)


def test_findings_with_and_without_labels_follow(run: Run):
    recompute(run)
    assert recheck.problems(run) == []
    labels = Labels(run, attributes_of(run, "demographics"))
    row = run.read_table("records").iloc[0]
    labels.give("a", row.image, row.request, "gender", "male")
    recompute(run)
    assert recheck.problems(run) == []
    assert problems(run)[0] == []


def test_a_changed_raw_score_shows_in_the_findings(run: Run):
    def other(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(gender_female=frame.gender_male, gender_male=frame.gender_female)

    rewrite(run, "detections/clip/*", other)
    assert problems(run)[0] == []
    assert recheck.problems(run)


def test_a_table_and_a_gate_must_follow_too(run: Run):
    table = next(run.path.glob("tables/*.parquet"))
    name = f"tables/{table.stem}"
    frame = run.read_table(name)
    run.write_table(name, frame[:-1])
    run.write_json("gates.json", [{"gate": "made up"}])
    assert recheck.problems(run) == [
        f"{name}.parquet: another table comes out of the raw scores",
        "gates.json: the gates come out otherwise",
    ]
