"""The marks of known products, and any mark from a user's settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from audit.errors import AuditError
from audit.plugins import did_you_mean

from .codecs import METHODS, Bits, Codec, InvisibleWatermark, unpacked
from .rivagan import RivaGan
from .user_models import StableSignature, TrustMark, WatermarkAnything

SDXL_MESSAGE = bytes.fromhex("b3ec907bb19e")


def stable_diffusion_v1() -> InvisibleWatermark:
    """``scripts/txt2img.py`` of CompVis/stable-diffusion: 136 bits."""
    return InvisibleWatermark("sd-v1", b"StableDiffusionV1")


def stable_diffusion_v2() -> InvisibleWatermark:
    """``scripts/txt2img.py`` of Stability-AI/stablediffusion: 32 bits."""
    return InvisibleWatermark("sd-v2", b"SDV2")


def stable_diffusion_xl() -> InvisibleWatermark:
    """``StableDiffusionXLWatermarker`` of diffusers, set in float32: 48 bits."""
    return InvisibleWatermark("sdxl", SDXL_MESSAGE, embeds="float32")


MODELS = {kind.method: kind for kind in (StableSignature, WatermarkAnything, TrustMark)}
_KEYS = ("method", "name", "message", "bits", "model", "allow_code", "variant")


def codec(settings: Mapping[str, Any]) -> Codec:
    """A codec from a user's settings.

    Args:
        settings: ``method`` (``dwtDct``, ``dwtDctSvd``, ``rivaGan``, ``stable-signature``,
            ``watermark-anything``, ``trustmark``); the message as ``message``, a text, or as
            ``bits``, a text of 0 and 1; ``name``, otherwise the method; for the last three
            ``model``, a file, and ``allow_code`` where it is TorchScript; for ``trustmark``
            ``variant``, and its message may be left away.

    Raises:
        AuditError: a setting is missing, unknown or wrong.

    >>> codec({"method": "dwtDctSvd", "message": "audit!"}).bits.shape
    (48,)
    """
    known = (*METHODS, "rivaGan", *MODELS)
    for key in settings:
        if key not in _KEYS:
            raise AuditError(f"watermark: unknown setting '{key}'{did_you_mean(key, _KEYS)}")
    method = str(settings.get("method", ""))
    if method not in known:
        raise AuditError(
            f"watermark: unknown method '{method}'{did_you_mean(method, known)}; there are: "
            f"{', '.join(known)}"
        )
    name = str(settings.get("name") or method)
    bits = _bits(settings, name)
    if not len(bits) and method != TrustMark.method:
        raise AuditError(f"watermark {name}: say its 'message', a text, or 'bits', of 0 and 1")
    if method in METHODS:
        return InvisibleWatermark(name, bits, method)
    if method == "rivaGan":
        return RivaGan(name, bits)
    if not settings.get("model"):
        raise AuditError(f"watermark {name}: say 'model', the file that reads {method}")
    path = Path(str(settings["model"])).expanduser()
    allow_code = settings.get("allow_code") is True
    if method == TrustMark.method:
        return TrustMark(name, bits, path, allow_code, str(settings.get("variant", "Q")))
    kind = StableSignature if method == StableSignature.method else WatermarkAnything
    return kind(name, bits, path, allow_code)


def _bits(settings: Mapping[str, Any], name: str) -> Bits:
    """The message, shape (n,); (0,) where none is given."""
    text, digits = settings.get("message"), settings.get("bits")
    if text is not None and digits is not None:
        raise AuditError(f"watermark {name}: say 'message' or 'bits', not both")
    if text is not None:
        return unpacked(str(text).encode())
    if digits is None:
        return np.zeros(0, bool)
    if not isinstance(digits, str) or set(digits) - set("01"):
        raise AuditError(f"watermark {name}: 'bits' is a text of 0 and 1, in quotes")
    return np.array([digit == "1" for digit in digits], bool)
