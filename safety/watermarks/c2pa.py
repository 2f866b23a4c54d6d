"""C2PA manifests ("Content Credentials"): read, validate, sign, and lose them by saving again.

The work is done by c2pa-python (the C2PA organisation's own library; the extra ``c2pa``), here with
the network shut off: a manifest that lies elsewhere is not fetched, revocation is not asked for.
Anyone can sign an image with a certificate of their own making, so a manifest that holds is
*Valid*, and *Trusted* only when its certificate leads to an anchor that the user gave.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from audit.errors import AuditError
from audit.inputs import MAX_BYTES

STATES = ("Trusted", "Valid", "Invalid", "ManifestNotFound", "RemoteManifest", "Unreadable")
"""The first three are the states of the C2PA specification 2.4, section 15; ``RemoteManifest``: the
file only names an address, which is not fetched; ``Unreadable``: the file cannot be parsed."""

GENERATED = ("trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia")
"""The IPTC digital source types that say: made by a generative model."""

_MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
_SOURCES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_OFFLINE: Mapping[str, Any] = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}


@dataclass(frozen=True)
class Credentials:
    """What a file's manifest says and whether it holds.

    Attributes:
        state: one of :data:`STATES`.
        codes: the failure codes of the specification, such as ``assertion.dataHash.mismatch``; of
            an unreadable file what the library says.
        signer, issuer: the certificate's common name and organisation, as it says itself.
        generator: the program that made the claim.
        source_type: IPTC digital source type; empty: none is claimed.
    """

    state: str
    codes: tuple[str, ...] = ()
    signer: str = ""
    issuer: str = ""
    generator: str = ""
    source_type: str = ""

    @property
    def holds(self) -> bool:
        """Signature and hashes are right, whoever signed."""
        return self.state in ("Trusted", "Valid")

    @property
    def generated(self) -> bool:
        """A manifest that holds says that a generative model made the image."""
        return self.holds and self.source_type in GENERATED

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"codes": list(self.codes), "generated": self.generated}


def read(source: bytes | Path, anchors: str = "") -> Credentials:
    """The credentials of an image file; a file without any has the state ``ManifestNotFound``.

    Args:
        source: the file or its bytes.
        anchors: certificates that the user trusts, PEM (:func:`read_anchors`).

    Raises:
        AuditError: the file cannot be read, is too large, or c2pa-python is not installed.
    """
    c2pa = _library()
    data = source if isinstance(source, bytes) else _bytes(source)
    settings = {**_OFFLINE, **({"trust": {"user_anchors": anchors}} if anchors else {})}
    try:
        with (
            c2pa.Context.from_dict(settings) as context,
            c2pa.Reader(None, io.BytesIO(data), context=context) as reader,
        ):
            document = json.loads(reader.json())
    except c2pa.C2paError as error:
        said = " ".join(str(error).split())[:200]
        if said.startswith("ManifestNotFound"):
            return Credentials("ManifestNotFound")
        return Credentials(
            "RemoteManifest" if said.startswith("Remote:") else "Unreadable", (said,)
        )
    return _credentials(document)


def read_anchors(paths: Iterable[Path]) -> str:
    """Trust anchors of several PEM files as one text.

    Raises:
        AuditError: one of them cannot be read or holds no certificate.
    """
    _library()
    from cryptography import x509

    texts = []
    for path in paths:
        data = _bytes(path)
        try:
            x509.load_pem_x509_certificates(data)
            texts.append(data.decode("ascii"))
        except ValueError as error:
            raise AuditError(
                f"{path} holds no PEM certificate; a trust anchor begins with BEGIN CERTIFICATE"
            ) from error
    return "\n".join(texts)


@dataclass(frozen=True)
class Signer:
    """The user's certificate and its private key.

    Attributes:
        chain: PEM, the signing certificate first, then those between it and the root. Its extended
            key usage must be one that C2PA admits, such as emailProtection.
        key: PEM, not encrypted.
        algorithm: of COSE, such as ``es256``.
    """

    chain: bytes
    key: bytes
    algorithm: str

    @classmethod
    def load(cls, chain: Path, key: Path) -> Signer:
        """Read both files; the algorithm follows from the key.

        Raises:
            AuditError: a file cannot be read, the key is of another certificate or of a kind that
                C2PA does not sign with.
        """
        _library()
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization

        certificates, secret = _bytes(chain), _bytes(key)
        try:
            first = x509.load_pem_x509_certificates(certificates)[0]
        except ValueError as error:
            raise AuditError(f"{chain} holds no PEM certificate") from error
        try:
            loaded = serialization.load_pem_private_key(secret, None)
        except (TypeError, ValueError) as error:
            raise AuditError(f"{key} is no private key in PEM without a password") from error
        if loaded.public_key() != first.public_key():
            raise AuditError(f"{key} is not the key of the first certificate in {chain}")
        plain = loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return cls(certificates, plain, _algorithm(loaded, key))

    def sign(
        self,
        data: bytes,
        *,
        title: str = "",
        source_type: str = "trainedAlgorithmicMedia",
        timestamps: str | None = None,
    ) -> bytes:
        """A copy of an image file with a manifest that says how it was created.

        Args:
            data: a PNG, JPEG or WebP file. A manifest that it holds is replaced.
            timestamps: address of a timestamp authority. Without one the manifest fails as soon as
                the certificate has expired, and nothing is sent anywhere.

        Raises:
            AuditError: it is no such file, or the certificate is refused.
        """
        c2pa = _library()
        mime = _mime(data)
        claim: dict[str, Any] = {
            "claim_generator_info": [{"name": "t2i-audit", "version": version("t2i-audit")}],
            "assertions": [
                {
                    "label": "c2pa.actions.v2",
                    "data": {
                        "actions": [
                            {
                                "action": "c2pa.created",
                                "digitalSourceType": _SOURCES + source_type,
                            }
                        ]
                    },
                }
            ],
        } | ({"title": title} if title else {})
        signed = io.BytesIO()
        try:
            info = c2pa.C2paSignerInfo(self.algorithm, self.chain, self.key, timestamps)
            with (
                c2pa.Context.from_dict(dict(_OFFLINE)) as context,
                c2pa.Signer.from_info(info) as signer,
                c2pa.Builder(claim, context=context) as builder,
            ):
                builder.sign(signer, mime, io.BytesIO(data), signed)
        except c2pa.C2paError as error:
            said = " ".join(str(error).split())[:200]
            raise AuditError(f"C2PA refuses to sign with this certificate: {said}") from error
        return signed.getvalue()


def resaved(data: bytes, kind: str = "") -> bytes:
    """The file after an ordinary program opened and saved it, as its own kind or as `kind`.

    Such programs know no C2PA, so the manifest is gone; whoever looks at the new file cannot tell
    it from one that never had any.
    """
    with Image.open(io.BytesIO(data), formats=list(_MIME)) as image:
        again, kept = io.BytesIO(), image.format or "PNG"
        lossless = {"lossless": True} if (kind or kept) == "WEBP" else {}
        image.convert("RGB").save(again, kind or kept, **lossless)
    return again.getvalue()


def unavailable() -> str | None:
    """Why C2PA cannot be read here, or ``None``."""
    try:
        _library()
    except AuditError as error:
        return str(error)
    return None


def _credentials(document: Mapping[str, Any]) -> Credentials:
    active = dict(document.get("manifests") or {}).get(document.get("active_manifest")) or {}
    signature = active.get("signature_info") or {}
    programs = [str(info.get("name", "")) for info in active.get("claim_generator_info") or []]
    sources = [
        str(action.get("digitalSourceType") or "")
        for assertion in active.get("assertions") or []
        if str(assertion.get("label", "")).startswith("c2pa.actions")
        for action in (assertion.get("data") or {}).get("actions") or []
    ]
    failures = document.get("validation_status") or []
    state = str(document.get("validation_state") or "Invalid")
    return Credentials(
        state if state in STATES else "Invalid",
        tuple(dict.fromkeys(str(failure.get("code", "")) for failure in failures)),
        _line(signature.get("common_name")),
        _line(signature.get("issuer")),
        _line(", ".join(filter(None, programs)) or active.get("claim_generator")),
        _line(next(filter(None, sources), "").rsplit("/", 1)[-1]),
    )


def _algorithm(key: Any, path: Path) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ec.EllipticCurvePrivateKey):
        curves = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
        if key.curve.name in curves:
            return curves[key.curve.name]
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    elif isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    raise AuditError(f"{path}: C2PA signs with P-256, P-384, P-521, Ed25519 or RSA keys only")


def _mime(data: bytes) -> str:
    try:
        with Image.open(io.BytesIO(data), formats=list(_MIME)) as image:
            return _MIME[str(image.format)]
    except (OSError, SyntaxError, ValueError) as error:
        raise AuditError("only PNG, JPEG and WebP files are signed here") from error


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise AuditError(f"{path} is larger than {MAX_BYTES:,} bytes: refused")
        return path.read_bytes()
    except OSError as error:
        raise AuditError(f"cannot read {path}: {error.strerror}") from error


def _line(value: Any) -> str:
    """What a stranger's certificate says, in one short line."""
    return " ".join(str(value or "").split())[:200]


def _library() -> Any:
    try:
        import c2pa
    except ImportError as error:
        raise AuditError(
            "C2PA needs the package c2pa-python: pip install 't2i-audit[c2pa]'"
        ) from error
    return c2pa
