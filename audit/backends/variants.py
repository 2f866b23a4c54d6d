"""The variants of Stable Diffusion: how a folder is recognised, and what a request must bring."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audit.errors import AuditError
from audit.plan import Request

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
"""What every variant has."""


@dataclass(frozen=True)
class Variant:
    """One kind of Stable Diffusion model.

    Attributes:
        name: as in run.json.
        pipeline: the diffusers class that runs it.
        channels: what its UNet takes beside the latent: channels of mask, depth or picture.
        parts: what it has beside :data:`PARTS`.
        init_image: ``optional`` or ``needed``.
        absent: those of `parts` that may be null: a single checkpoint file has none.
        takes: which of mask, depth, strength and noise_level it knows.
        predicts: the prediction types it can have.
        sampler: where the defaults of its pipeline differ from 50 steps at guidance 7.5.
    """

    name: str
    pipeline: str
    channels: int = 0
    parts: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    init_image: str = "optional"
    takes: frozenset[str] = frozenset()
    predicts: tuple[str, ...] = ("epsilon", "v_prediction")
    sampler: Mapping[str, Any] = field(default_factory=dict)


TEXT_TO_IMAGE = Variant("text-to-image", "StableDiffusionPipeline", takes=frozenset({"strength"}))
INPAINTING = Variant(
    "inpainting",
    "StableDiffusionInpaintPipeline",
    channels=5,
    takes=frozenset({"mask", "strength"}),
)
DEPTH = Variant(
    "depth",
    "StableDiffusionDepth2ImgPipeline",
    channels=1,
    parts=("depth_estimator", "feature_extractor"),
    absent=("depth_estimator", "feature_extractor"),
    init_image="needed",
    takes=frozenset({"depth", "strength"}),
    sampler={"strength": 0.8},
)
UPSCALER = Variant(
    "upscaler",
    "StableDiffusionUpscalePipeline",
    channels=3,
    parts=("low_res_scheduler",),
    init_image="needed",
    takes=frozenset({"noise_level"}),
    predicts=("v_prediction",),
    sampler={"steps": 75, "guidance": 9.0, "noise_level": 20},
)
UNCLIP = Variant(
    "unclip",
    "StableUnCLIPImg2ImgPipeline",
    parts=("feature_extractor", "image_encoder", "image_normalizer", "image_noising_scheduler"),
    init_image="needed",
    takes=frozenset({"noise_level"}),
    sampler={"steps": 20, "guidance": 10.0},
)
VARIANTS = (TEXT_TO_IMAGE, INPAINTING, DEPTH, UPSCALER, UNCLIP)

CLASSES = {variant.pipeline: variant for variant in VARIANTS} | {
    "StableDiffusionImg2ImgPipeline": TEXT_TO_IMAGE
}


def recognise(folder: Path) -> Variant:
    """The variant of a diffusers folder, by its pipeline's class and its UNet's input channels.

    Raises:
        AuditError: it is none of them, or lacks a part of its variant.
    """
    index = _read(folder / "model_index.json")
    name = index.get("_class_name")
    if name not in CLASSES:
        raise AuditError(
            f"{folder} is a {name}, which the backend stable-diffusion does not audit; "
            f"it audits {', '.join(CLASSES)}"
        )
    variant = CLASSES[name]
    channels = _read(folder / "unet" / "config.json").get("in_channels", 4)
    latent = _read(folder / "vae" / "config.json").get("latent_channels", 4)
    # Converted checkpoints do not always name the inpainting pipeline, and it can run both.
    if variant in (TEXT_TO_IMAGE, INPAINTING):
        variant = TEXT_TO_IMAGE if channels == latent else INPAINTING
    if channels != latent + variant.channels:
        raise AuditError(
            f"{folder}: the UNet of {variant.pipeline} takes {latent + variant.channels} channels "
            f"({latent} of the latent), this one takes {channels}; model_index.json names the "
            "wrong class or unet/ is another model's"
        )
    for part in variant.parts:
        if part in variant.absent and index.get(part) == [None, None]:
            continue
        if not index.get(part) or index[part][0] is None or not (folder / part).is_dir():
            raise AuditError(
                f"{folder} lacks its part '{part}': a {variant.pipeline} has "
                f"{', '.join((*PARTS, *variant.parts))}; copy it from where the model came from"
            )
    return variant


def check_request(variant: Variant, request: Request, most_noise: int) -> None:
    """Hold a request to what the variant needs and knows.

    Args:
        variant: of the model.
        request: to be made.
        most_noise: the highest noise level that the model knows.

    Raises:
        AuditError: something is missing, out of range, or would be left out in silence.
    """
    model = f"this model ({variant.name})"
    if variant.init_image == "needed" and not request.init_image:
        raise AuditError(f"{model} starts from a picture: give init_image")
    for name in ("mask", "depth"):
        if getattr(request, name) and name not in variant.takes:
            raise AuditError(f"{model} takes no {name}: leave {name} away")
    if variant is INPAINTING and bool(request.init_image) != bool(request.mask):
        raise AuditError(
            f"{model} needs init_image and mask together; with neither the whole picture is made"
        )
    if request.noise_level and "noise_level" not in variant.takes:
        raise AuditError(f"{model} takes no noise_level: leave it away")
    if not 0 <= request.noise_level <= most_noise:
        raise AuditError(f"noise_level is {request.noise_level}; {model} takes 0 to {most_noise}")
    if not 0 <= request.strength <= 1:
        raise AuditError(f"strength is {request.strength}; it must be from 0 to 1")
    if request.strength < 1:
        if "strength" not in variant.takes:
            raise AuditError(f"{model} takes no strength: leave it away")
        if not request.init_image:
            raise AuditError("a strength below 1 starts from a picture: give init_image")
        if int(request.steps * request.strength) < 1:
            raise AuditError(
                f"{request.steps} steps at strength {request.strength} leave none to run; "
                "raise one of them"
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            raise ValueError("not a mapping")
    except FileNotFoundError as error:
        raise AuditError(f"{path.parent} has no {path.name}: it is not a diffusers part") from error
    except (OSError, ValueError) as error:
        raise AuditError(f"{path} is damaged: {' '.join(str(error).split())[:200]}") from error
    return document
