"""Tiny folders of every variant: the true classes, random weights, a second each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.tiny import (
    DIMENSION,
    autoencoder,
    image_processor,
    plms,
    text_config,
    tokenizer,
    unet,
    vision_config,
)


def make_variant(folder: Path, name: str, prediction: str = "epsilon", seed: int = 0) -> Path:
    """A diffusers folder of the variant `name`.

    ``text-to-image-2`` and ``inpainting-2`` have the shape of Stable Diffusion 2: the text encoder
    of OpenCLIP, linear projections and a number of heads for each block.
    """
    from transformers import CLIPTextModel

    torch.manual_seed(seed)
    make, second = {
        "text-to-image-2": (_text_to_image, True),
        "inpainting": (_inpainting, False),
        "inpainting-2": (_inpainting, True),
        "depth": (_depth, True),
        "upscaler": (_upscaler, True),
        "unclip": (_unclip, True),
    }[name]
    parts = {
        "tokenizer": tokenizer(),
        "text_encoder": CLIPTextModel(text_config(hidden_act="gelu" if second else "quick_gelu")),
        "scheduler": plms(prediction),
        "vae": autoencoder(),
    }
    make(parts, second).save_pretrained(folder, safe_serialization=True)
    return folder


def _unet(second: bool, **changes: Any) -> Any:
    heads = {"attention_head_dim": (2, 4)} if second else {}
    return unet(use_linear_projection=second, **heads, **changes)


def _text_to_image(parts: dict[str, Any], second: bool) -> Any:
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        **parts,
        unet=_unet(second),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _inpainting(parts: dict[str, Any], second: bool) -> Any:
    from diffusers import StableDiffusionInpaintPipeline

    return StableDiffusionInpaintPipeline(
        **parts,
        unet=_unet(second, in_channels=9),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _depth(parts: dict[str, Any], second: bool) -> Any:
    from diffusers import StableDiffusionDepth2ImgPipeline
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    config = DPTConfig(
        image_size=32,
        patch_size=16,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        backbone_out_indices=(0, 1, 2, 3),
        neck_hidden_sizes=[16, 16, 16, 16],
        fusion_hidden_size=16,
        is_hybrid=True,
        # The hybrid of Stable Diffusion 2: a ResNetV2 before the transformer.
        backbone_config={
            "model_type": "bit",
            "global_padding": "same",
            "layer_type": "bottleneck",
            "depths": [1, 1, 1],
            "hidden_sizes": [16, 16, 32],
            "out_features": ["stage1", "stage2", "stage3"],
            "embedding_dynamic_padding": True,
            "embedding_size": 16,
            "num_groups": 2,
        },
        backbone_featmap_shape=[1, 32, 2, 2],
    )
    return StableDiffusionDepth2ImgPipeline(
        **parts,
        unet=_unet(second, in_channels=5),
        depth_estimator=DPTForDepthEstimation(config),
        feature_extractor=DPTImageProcessor(size={"height": 32, "width": 32}),
    )


def _upscaler(parts: dict[str, Any], second: bool) -> Any:
    from diffusers import DDPMScheduler, StableDiffusionUpscalePipeline

    return StableDiffusionUpscalePipeline(
        **(parts | {"vae": autoencoder(3, scaling_factor=0.08333)}),
        unet=_unet(second, in_channels=7, num_class_embeds=1000),
        low_res_scheduler=DDPMScheduler(beta_schedule="scaled_linear", beta_end=0.02),
        max_noise_level=350,
    )


def _unclip(parts: dict[str, Any], second: bool) -> Any:
    from diffusers import DDPMScheduler, StableUnCLIPImg2ImgPipeline
    from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
    from transformers import CLIPVisionModelWithProjection

    normalizer = StableUnCLIPImageNormalizer(embedding_dim=DIMENSION)
    torch.nn.init.normal_(normalizer.mean, std=0.1)
    torch.nn.init.uniform_(normalizer.std, 0.5, 1.5)
    return StableUnCLIPImg2ImgPipeline(
        **parts,
        unet=_unet(
            second,
            class_embed_type="projection",
            projection_class_embeddings_input_dim=2 * DIMENSION,
        ),
        image_encoder=CLIPVisionModelWithProjection(vision_config()),
        feature_extractor=image_processor(),
        image_normalizer=normalizer,
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
    )
