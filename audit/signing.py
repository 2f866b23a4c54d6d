"""A signature over a run: who vouches for which files, in a form that other tools check too.

A statement of in-toto (v1) names every file of the journal with its SHA-256, the journal itself and
the labels; it is signed with the user's Ed25519 key in a DSSE envelope. Envelopes of several people
stand in one file, a line each. A journal can be written anew by whoever can write the folder; a
signature cannot.

Sources: in-toto Attestation Framework, Statement v1; DSSE v1 (``PAE(type, body)``, keyid).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .atomic import replace
from .card import documents
from .errors import AuditError
from .store import Run

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

FILE = "signatures.intoto.jsonl"
PAYLOAD = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:t2i-audit:run:v1"
JOURNAL = "journal.jsonl"
MAKE = "openssl genpkey -algorithm ed25519 -out key.pem"
MOST_BYTES = 256 * 2**20
"""Of the file of signatures: a run of a million images has some ten thousand files to name."""


@dataclass(frozen=True)
class Signature:
    """One signature, and what it says.

    Attributes:
        keyid: SHA-256 of the public key's DER form, in hex.
        files: name → SHA-256 at the time.
        predicate: what else is said of the run.
    """

    keyid: str
    files: Mapping[str, str]
    predicate: Mapping[str, Any]
    payload: bytes
    bytes: bytes


def statement(run: Run) -> dict[str, Any]:
    """The in-toto statement about a run as it is now."""
    info = run.info
    entries = run.journal.entries()
    verdicts: dict[str, int] = {}
    for finding in documents.findings(run):
        verdicts[finding.verdict] = verdicts.get(finding.verdict, 0) + 1
    return {
        "_type": STATEMENT,
        "subject": [
            {"name": name, "digest": {"sha256": digest}}
            for name, digest in sorted(_files(run).items())
        ],
        "predicateType": PREDICATE,
        "predicate": {
            "model": info.get("model"),
            "weights": (info.get("backend") or {}).get("weights"),
            "versions": info.get("versions"),
            "created": info.get("created"),
            "schema_version": info.get("schema_version"),
            "journal": {"entries": len(entries), "head": entries[-1]["hash"] if entries else ""},
            "verdicts": verdicts,
        },
    }


def sign(run: Run, private: Ed25519PrivateKey) -> Signature:
    """Sign the run as it is, beside the signatures that are there; the new one.

    Raises:
        AuditError: the file of signatures is damaged.
    """
    payload = json.dumps(statement(run), ensure_ascii=False, sort_keys=True).encode()
    keyid = _keyid(private.public_key())
    made = private.sign(_encoded(payload))
    envelope = {
        "payloadType": PAYLOAD,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": keyid, "sig": base64.b64encode(made).decode()}],
    }
    # The same key's earlier word is replaced: it vouches for the run as it is now.
    kept = [line for line, s in _lines(run) if s.keyid != keyid]
    text = "".join(line + "\n" for line in [*kept, json.dumps(envelope)])
    replace(run.path / FILE, text.encode())
    return _read(json.dumps(envelope), run.path / FILE, len(kept) + 1)


def signatures(run: Run) -> list[Signature]:
    """The signatures of a run; whether they hold is for :func:`problems` to say.

    Raises:
        AuditError: the file is damaged.
    """
    return [signature for _, signature in _lines(run)]


def problems(run: Run, public: Ed25519PublicKey) -> list[str]:
    """One line for all that a key's signature of the run does not vouch for.

    Raises:
        AuditError: the file of signatures is damaged.
    """
    from cryptography.exceptions import InvalidSignature

    keyid = _keyid(public)
    mine = [s for s in signatures(run) if s.keyid == keyid]
    if not mine:
        return [f"{FILE}: no signature of the key {keyid[:16]}…"]
    found = []
    for signature in mine:
        try:
            public.verify(signature.bytes, _encoded(signature.payload))
        except InvalidSignature:
            return [f"{FILE}: the signature of the key {keyid[:16]}… does not hold"]
        now = _files(run)
        for name, digest in sorted(signature.files.items()):
            if name not in now:
                found.append(f"{name}: was signed and is gone")
            elif now[name] != digest and name != JOURNAL:
                found.append(f"{name}: changed after it was signed")
        found += [
            f"{name}: came after the signature" for name in now if name not in signature.files
        ]
        if not found and now.get(JOURNAL) != signature.files.get(JOURNAL):
            found.append(f"{JOURNAL}: has entries that were not signed")
    return found


def private_key(path: Path, password: bytes | None = None) -> Ed25519PrivateKey:
    """A user's key for signing, in PEM (PKCS #8) or OpenSSH's form.

    Raises:
        AuditError: it cannot be read, or is no Ed25519 key.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    data = _key_file(path)
    ssh = data.startswith(b"-----BEGIN OPENSSH")
    load = serialization.load_ssh_private_key if ssh else serialization.load_pem_private_key
    try:
        key = load(data, password)
    except TypeError as error:
        asked = "is protected by a password" if password is None else "is not protected"
        raise AuditError(f"the key {path} {asked}: set T2I_AUDIT_KEY_PASSWORD, or not") from error
    except Exception as error:  # each form has errors of its own
        raise AuditError(f"{path} is no private key, or the password is wrong") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise AuditError(f"{path} is no Ed25519 key; make one: {MAKE}")
    return key


def public_key(path: Path) -> Ed25519PublicKey:
    """A public key in PEM or OpenSSH's form (``ssh-ed25519 …``).

    Raises:
        AuditError: it cannot be read, or is no Ed25519 key.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    data = _key_file(path)
    if b"PRIVATE KEY" in data:
        raise AuditError(
            f"{path} is a private key: give the public one (openssl pkey -in {path} -pubout)"
        )
    ssh = data.startswith(b"ssh-")
    load = serialization.load_ssh_public_key if ssh else serialization.load_pem_public_key
    try:
        key = load(data)
    except Exception as error:
        raise AuditError(f"{path} is no public key in PEM or OpenSSH's form") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise AuditError(f"{path} is no Ed25519 key")
    return key


def _key_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64 * 1024)
    except OSError as error:
        raise AuditError(f"cannot read the key {path}: {error.strerror}") from error


def _files(run: Run) -> dict[str, str]:
    """What a signature vouches for: images are named by their hash in the records."""
    files = dict(run.journal.latest())
    if run.journal.path.is_file():
        files[JOURNAL] = hashlib.sha256(run.journal.path.read_bytes()).hexdigest()
    return files


def _encoded(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed is type and payload, not JSON.

    >>> _encoded(b"hello")
    b'DSSEv1 28 application/vnd.in-toto+json 5 hello'
    """
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD), PAYLOAD.encode(), len(payload), payload)


def _keyid(public: Ed25519PublicKey) -> str:
    from cryptography.hazmat.primitives import serialization

    der = public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()


def _lines(run: Run) -> list[tuple[str, Signature]]:
    path = run.path / FILE
    if not path.is_file():
        return []
    if path.stat().st_size > MOST_BYTES:
        raise AuditError(f"{path} is larger than {MOST_BYTES:,} bytes: refused")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise AuditError(f"{path} is damaged: it is no text") from error
    return [(line, _read(line, path, n)) for n, line in enumerate(lines, start=1) if line.strip()]


def _read(line: str, path: Path, number: int) -> Signature:
    try:
        envelope = json.loads(line)
        if envelope["payloadType"] != PAYLOAD:
            raise ValueError("another type")
        payload = base64.b64decode(envelope["payload"], validate=True)
        [signed] = envelope["signatures"]
        said = json.loads(payload)
        if said["_type"] != STATEMENT or said["predicateType"] != PREDICATE:
            raise ValueError("another statement")
        files = {str(each["name"]): str(each["digest"]["sha256"]) for each in said["subject"]}
        mark = base64.b64decode(signed["sig"], validate=True)
        return Signature(str(signed["keyid"]), files, dict(said["predicate"]), payload, mark)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        binascii.Error,
    ) as error:
        raise AuditError(f"{path}:{number} is damaged: no signature of a run") from error
