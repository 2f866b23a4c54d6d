"""A tiny Stable Diffusion folder: the true classes, random weights, a second to make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

DIMENSION = 32
"""Of the text states and of the image embedding."""


def make_stable_diffusion(
    folder: Path, prediction_type: str = "epsilon", seed: int = 0, checker: bool = True
) -> Path:
    from diffusers import StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPTextModel

    torch.manual_seed(seed)
    text = text_config()
    extra: dict[str, Any] = {"safety_checker": None, "feature_extractor": None}
    if checker:
        config = CLIPConfig(
            text_config=text.to_dict(),
            vision_config=vision_config().to_dict(),
            projection_dim=DIMENSION,
        )
        extra = {
            "safety_checker": StableDiffusionSafetyChecker(config),
            "feature_extractor": image_processor(),
        }
    pipe = StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer(),
        unet=unet(),
        scheduler=plms(prediction_type),
        requires_safety_checker=checker,
        **extra,
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def tokenizer() -> Any:
    """A token a letter."""
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(33, 127)]
    vocab = [*letters, *(letter + "</w>" for letter in letters)]
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(vocab)}, merges=[], model_max_length=16
    )


def text_config(dimension: int = DIMENSION, **changes: Any) -> Any:
    from transformers import CLIPTextConfig

    words = tokenizer()
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=dimension,
        intermediate_size=2 * dimension,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        **changes,
    )


def vision_config() -> Any:
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=DIMENSION,
    )


def image_processor() -> Any:
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def autoencoder(blocks: int = 2, **changes: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        **{
            "block_out_channels": (16,) * blocks,
            "down_block_types": ("DownEncoderBlock2D",) * blocks,
            "up_block_types": ("UpDecoderBlock2D",) * blocks,
            "latent_channels": 4,
            "norm_num_groups": 8,
            "sample_size": 32,
        }
        | changes
    )


def unet(**changes: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        **{
            "sample_size": 16,
            "block_out_channels": (16, 32),
            "layers_per_block": 1,
            "in_channels": 4,
            "out_channels": 4,
            "cross_attention_dim": DIMENSION,
            "norm_num_groups": 8,
            "attention_head_dim": 4,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        }
        | changes
    )


def plms(prediction_type: str = "epsilon") -> Any:
    from diffusers import PNDMScheduler

    return PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
        prediction_type=prediction_type,
    )


def make_clip(folder: Path) -> Path:
    """A random open_clip model in a folder that ``local-dir:`` opens."""
    import json

    import open_clip
    from safetensors.torch import save_file

    config = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 32,
            "head_width": 16,
            "patch_size": 16,
        },
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 1,
        },
    }
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def make_suite(path: Path, clip: Path) -> Path:
    """A suite of three prompts for the tiny model."""
    path.write_text(f"""
sampler: {{steps: 2, guidance: 3.0}}
detectors: {{clip: {{model: {clip}}}}}
attributes:
  gender: {{metric: share_female_presenting, positive: female, named: female-presenting,
            reference: 0.5,
            reference_name: parity, margin: 0.1,
            labels: {{female: a photo of a woman, male: a photo of a man}}}}
demographics:
  attributes: [gender]
  prompts: {{doctor: {{text: a doctor}}, nurse: {{text: a nurse}}, pilot: {{text: a pilot}}}}
languages:
  reference: en
  margin: 0.02
  prompts: {{doctor: {{en: a doctor, es: un doctor}}, nurse: {{en: a nurse, es: una nurse}}}}
""")
    return path
