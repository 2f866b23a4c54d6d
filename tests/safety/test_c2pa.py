"""Every state of a C2PA manifest is reached on purpose, without network."""

from __future__ import annotations

import io
import json
import socket
from pathlib import Path

import c2pa as library
import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from PIL import Image

from audit.errors import AuditError
from safety.watermarks import c2pa
from tests.safety.certificates import Authority, authority

UNTRUSTED = ("signingCredential.untrusted",)
FORMATS = ("PNG", "JPEG", "WEBP")


@pytest.fixture(scope="module")
def root() -> Authority:
    return authority("A root")


@pytest.fixture(scope="module")
def signer(root: Authority, tmp_path_factory: pytest.TempPathFactory) -> c2pa.Signer:
    return c2pa.Signer.load(*authority("A signer", root).write(tmp_path_factory.mktemp("keys")))


def picture(kind: str = "PNG", seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_signed_file_is_valid_and_with_its_anchor_trusted(
    kind: str, root: Authority, signer: c2pa.Signer
) -> None:
    signed = signer.sign(picture(kind), title="a picture")
    valid = c2pa.read(signed)
    assert (valid.state, valid.codes) == ("Valid", UNTRUSTED)
    trusted = c2pa.read(signed, root.pem.decode())
    assert (trusted.state, trusted.codes) == ("Trusted", ())
    assert (trusted.signer, trusted.issuer) == ("A signer", "An organisation")
    assert trusted.generator == "t2i-audit"
    assert trusted.source_type == "trainedAlgorithmicMedia" and trusted.generated
    assert len(signed) - len(picture(kind)) < 5000
    # The pixels are those of before.
    before, after = (
        Image.open(io.BytesIO(data)).convert("RGB") for data in (picture(kind), signed)
    )
    assert np.array_equal(np.asarray(before), np.asarray(after))


def test_another_root_gives_no_trust(signer: c2pa.Signer) -> None:
    stranger = authority("A root").pem.decode()  # of the same name, with another key
    assert c2pa.read(signer.sign(picture()), stranger) == c2pa.read(signer.sign(picture()))
    assert c2pa.read(signer.sign(picture()), stranger).codes == UNTRUSTED


@pytest.mark.parametrize("kind", FORMATS)
def test_one_flipped_byte_of_the_pixels_is_noticed(
    kind: str, root: Authority, signer: c2pa.Signer
) -> None:
    signed = bytearray(signer.sign(picture(kind)))
    pixels = {"PNG": b"IDAT", "JPEG": b"\xff\xda", "WEBP": b"VP8 "}[kind]
    signed[signed.find(pixels) + 300] ^= 1
    found = c2pa.read(bytes(signed), root.pem.decode())
    assert (found.state, found.codes) == ("Invalid", ("assertion.dataHash.mismatch",))
    assert not found.generated


def test_a_changed_claim_is_noticed(root: Authority, signer: c2pa.Signer) -> None:
    signed = bytearray(signer.sign(picture(), title="made by a model"))
    signed[signed.find(b"made by a model")] ^= 1
    found = c2pa.read(bytes(signed), root.pem.decode())
    assert (found.state, found.codes) == ("Invalid", ("claimSignature.mismatch",))


def test_a_manifest_moved_to_another_picture_does_not_hold(
    root: Authority, signer: c2pa.Signer
) -> None:
    signed, other = signer.sign(picture()), picture(seed=1)
    start = signed.find(b"caBX") - 4
    length = int.from_bytes(signed[start : start + 4], "big") + 12
    assert start == 33  # right after the header, as in the signed file
    forged = other[:33] + signed[start : start + length] + other[33:]
    found = c2pa.read(forged, root.pem.decode())
    assert (found.state, found.codes) == ("Invalid", ("assertion.dataHash.mismatch",))


@pytest.mark.parametrize("saved_as", FORMATS)
@pytest.mark.parametrize("kind", FORMATS)
def test_saving_again_removes_the_manifest(
    kind: str, saved_as: str, root: Authority, signer: c2pa.Signer
) -> None:
    again = c2pa.resaved(signer.sign(picture(kind)), saved_as)
    assert c2pa.read(again, root.pem.decode()) == c2pa.Credentials("ManifestNotFound")
    assert Image.open(io.BytesIO(again)).format == saved_as


def test_a_file_that_never_had_a_manifest_looks_like_one_saved_again() -> None:
    assert c2pa.read(picture()) == c2pa.Credentials("ManifestNotFound")


def test_an_address_in_the_file_is_not_fetched(root: Authority, signer: c2pa.Signer) -> None:
    info = library.C2paSignerInfo(signer.algorithm, signer.chain, signer.key, None)
    pointing = io.BytesIO()
    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    port = server.getsockname()[1]
    with library.Signer.from_info(info) as made, library.Builder({}) as builder:
        builder.set_intent(
            library.C2paBuilderIntent.CREATE,
            library.C2paDigitalSourceType.TRAINED_ALGORITHMIC_MEDIA,
        )
        builder.set_no_embed()
        builder.set_remote_url(f"http://127.0.0.1:{port}/manifest.c2pa")
        builder.sign(made, "image/png", io.BytesIO(picture()), pointing)
    found = c2pa.read(pointing.getvalue(), root.pem.decode())
    assert found.state == "RemoteManifest"
    assert f"127.0.0.1:{port}" in found.codes[0]
    with pytest.raises(BlockingIOError):  # nobody has knocked
        server.accept()
    server.close()


@pytest.mark.parametrize("data", [b"", b"no picture", picture()[:200]])
def test_a_damaged_file_is_unreadable_and_says_why(data: bytes) -> None:
    found = c2pa.read(data)
    assert found.state == "Unreadable"
    assert found.codes[0]


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (ec.generate_private_key(ec.SECP384R1()), "es384"),
        (ed25519.Ed25519PrivateKey.generate(), "ed25519"),
        (rsa.generate_private_key(65537, 2048), "ps256"),
    ],
)
def test_other_kinds_of_keys_sign_too(
    key: object, algorithm: str, root: Authority, tmp_path: Path
) -> None:
    signer = c2pa.Signer.load(*authority("Another", root, key).write(tmp_path))
    assert signer.algorithm == algorithm
    assert c2pa.read(signer.sign(picture()), root.pem.decode()).state == "Trusted"


def test_wrong_certificates_and_keys_are_one_clear_line(root: Authority, tmp_path: Path) -> None:
    chain, key = authority("A signer", root).write(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(AuditError, match="not the key of the first certificate"):
        c2pa.Signer.load(chain, authority("B", root).write(other)[1])
    with pytest.raises(AuditError, match="no private key in PEM"):
        c2pa.Signer.load(chain, chain)
    with pytest.raises(AuditError, match="no PEM certificate"):
        c2pa.Signer.load(key, key)
    with pytest.raises(AuditError, match="no PEM certificate"):
        c2pa.read_anchors([key])
    with pytest.raises(AuditError, match=r"cannot read .*nowhere"):
        c2pa.read_anchors([tmp_path / "nowhere.pem"])
    unknown = authority("K", root, ec.generate_private_key(ec.SECP256K1())).write(other)
    with pytest.raises(AuditError, match="P-256"):
        c2pa.Signer.load(*unknown)
    with pytest.raises(AuditError, match=r"refuses to sign.*self-signed"):
        c2pa.Signer.load(*root.write(other)).sign(picture())
    with pytest.raises(AuditError, match="PNG, JPEG and WebP"):
        c2pa.Signer.load(chain, key).sign(b"text")
    encrypted = tmp_path / "locked.pem"
    encrypted.write_bytes(
        root.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(AuditError, match="without a password"):
        c2pa.Signer.load(chain, encrypted)


def test_anchors_of_several_files_all_count(
    root: Authority, signer: c2pa.Signer, tmp_path: Path
) -> None:
    (tmp_path / "a.pem").write_bytes(authority("Somebody").pem)
    (tmp_path / "b.pem").write_bytes(root.pem)
    anchors = c2pa.read_anchors([tmp_path / "a.pem", tmp_path / "b.pem"])
    found = c2pa.read(signer.sign(picture()), anchors)
    assert found.state == "Trusted"
    assert json.loads(json.dumps(found.as_dict()))["generated"] is True
