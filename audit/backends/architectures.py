"""The shapes of Stable Diffusion v1 and 2.x, as component configurations of diffusers.

Written from the training configurations that CompVis and Stability published (v1-inference.yaml,
v2-inference.yaml, v2-inpainting-inference.yaml, v2-midas-inference.yaml, x4-upscaling.yaml). A
single file ships no sampler: epsilon models get PNDM and v models DDIM, as their repositories do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Config = Mapping[str, Any]

PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class Architecture:
    """One kind of single file.

    Attributes:
        name: for messages and the record.
        pipeline: the diffusers class that it becomes.
        unet, vae, text_encoder: configurations of UNet2DConditionModel, AutoencoderKL,
            CLIPTextModel.
        open_clip: the text encoder's tensors are named as OpenCLIP names them.
        pad_token: fills a prompt up to 77 tokens.
        predicts: ``epsilon`` or ``v_prediction``; ``None`` where the shapes do not tell.
        betas: the noise schedule's ends, scaled linear over 1000 steps.
        extra: further parts of ``model_index.json`` → configuration of a scheduler, or ``None``
            for a part that a single file does not hold.
    """

    name: str
    pipeline: str
    unet: Config
    vae: Config
    text_encoder: Config
    open_clip: bool
    pad_token: str
    predicts: str | None
    betas: tuple[float, float] = (0.00085, 0.012)
    extra: Mapping[str, Config | None] = field(default_factory=dict)


_CROSS = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
_CROSS_UP = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3


def _unet(channels: int, **changed: Any) -> dict[str, Any]:
    return {
        "sample_size": 64,
        "in_channels": channels,
        "out_channels": 4,
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "down_block_types": list(_CROSS),
        "up_block_types": list(_CROSS_UP),
        "norm_num_groups": 32,
        **changed,
    }


def _unet_1(channels: int) -> dict[str, Any]:
    return _unet(channels, cross_attention_dim=768, attention_head_dim=8)


def _unet_2(channels: int, **changed: Any) -> dict[str, Any]:
    return _unet(
        channels,
        **{
            "cross_attention_dim": 1024,
            # The number of heads, 64 channels each, in spite of the name.
            "attention_head_dim": [5, 10, 20, 20],
            "use_linear_projection": True,
            **changed,
        },
    )


def _vae(*channels: int, scaling_factor: float = 0.18215) -> dict[str, Any]:
    return {
        "block_out_channels": list(channels),
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
        "layers_per_block": 2,
        "latent_channels": 4,
        "norm_num_groups": 32,
        "sample_size": 512,
        "scaling_factor": scaling_factor,
    }


VAE = _vae(128, 256, 512, 512)

_TEXT = {"bos_token_id": 49406, "eos_token_id": 49407, "vocab_size": 49408}
CLIP_L = {
    **_TEXT,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
    "pad_token_id": 49407,
}
OPEN_CLIP_H = {
    **_TEXT,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    # The penultimate layer conditions the UNet, so the 24th is left out.
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "projection_dim": 512,
    "pad_token_id": 0,
}


def _one(name: str, pipeline: str, channels: int) -> Architecture:
    return Architecture(
        name, pipeline, _unet_1(channels), VAE, CLIP_L, False, "<|endoftext|>", "epsilon"
    )


def _two(
    name: str, pipeline: str, unet: Config, predicts: str | None, vae: Config = VAE, **other: Any
) -> Architecture:
    return Architecture(name, pipeline, unet, vae, OPEN_CLIP_H, True, "!", predicts, **other)


ARCHITECTURES: dict[tuple[int, int], Architecture] = {
    (4, 768): _one("v1", "StableDiffusionPipeline", 4),
    (9, 768): _one("v1 inpainting", "StableDiffusionInpaintPipeline", 9),
    (4, 1024): _two("v2", "StableDiffusionPipeline", _unet_2(4), None),
    (9, 1024): _two("v2 inpainting", "StableDiffusionInpaintPipeline", _unet_2(9), "epsilon"),
    (5, 1024): _two(
        "v2 depth",
        "StableDiffusionDepth2ImgPipeline",
        _unet_2(5),
        "epsilon",
        extra={"depth_estimator": None, "feature_extractor": None},
    ),
    (7, 1024): _two(
        "x4 upscaler",
        "StableDiffusionUpscalePipeline",
        _unet_2(
            7,
            sample_size=128,
            block_out_channels=[256, 512, 512, 1024],
            attention_head_dim=8,
            down_block_types=["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 3,
            up_block_types=["CrossAttnUpBlock2D"] * 3 + ["UpBlock2D"],
            only_cross_attention=[True, True, True, False],
            num_class_embeds=1000,
        ),
        "v_prediction",
        _vae(128, 256, 512, scaling_factor=0.08333),
        betas=(0.0001, 0.02),
        extra={
            "low_res_scheduler": {
                "_class_name": "DDPMScheduler",
                "beta_start": 0.0001,
                "beta_end": 0.02,
                "beta_schedule": "scaled_linear",
            }
        },
    ),
}
"""By the UNet's input channels and the width of the text embedding."""


def scheduler(architecture: Architecture, prediction_type: str) -> dict[str, Any]:
    """The configuration of the sampler for a model that predicts `prediction_type`."""
    start, end = architecture.betas
    common = {
        "num_train_timesteps": 1000,
        "beta_start": start,
        "beta_end": end,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
        "set_alpha_to_one": False,
        "prediction_type": prediction_type,
    }
    if prediction_type == "epsilon":
        return {"_class_name": "PNDMScheduler", "skip_prk_steps": True, **common}
    return {"_class_name": "DDIMScheduler", "clip_sample": False, **common}
