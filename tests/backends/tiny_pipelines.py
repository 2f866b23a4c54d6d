"""Whole pipelines of the true classes in tiny form: SDXL, Stable Diffusion 3, FLUX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.tiny import autoencoder, text_config, tokenizer, unet

SIDE = 32


def clip_text(dimension: int, activation: str = "quick_gelu") -> Any:
    from transformers import CLIPTextModelWithProjection

    config = text_config(dimension, projection_dim=dimension, hidden_act=activation)
    return CLIPTextModelWithProjection(config)


def make_sdxl(folder: Path) -> Path:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    text = clip_text(32)
    pipe = StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=CLIPTextModel(CLIPTextConfig(**text.config.to_dict())),
        text_encoder_2=clip_text(32, "gelu"),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=unet(
            cross_attention_dim=64,
            attention_head_dim=(2, 4),
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 32,
            transformer_layers_per_block=(1, 1),
            use_linear_projection=True,
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def t5() -> tuple[Any, Any]:
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(chr(c), -3.0) for c in range(33, 127)]
    words = T5Tokenizer(vocab=pieces, extra_ids=0)
    config = T5Config(vocab_size=len(words), d_model=32, d_ff=64, d_kv=8, num_layers=2, num_heads=4)
    return words, T5EncoderModel(config)


def make_flux(folder: Path) -> Path:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    pieces, encoder = t5()
    pipe = FluxPipeline(
        transformer=FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            guidance_embeds=True,
            axes_dims_rope=(4, 4, 8),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=CLIPTextModel(CLIPTextConfig(**clip_text(32).config.to_dict())),
        tokenizer=tokenizer(),
        text_encoder_2=encoder,
        tokenizer_2=pieces,
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def make_sd3(folder: Path) -> Path:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    torch.manual_seed(0)
    pieces, encoder = t5()
    pipe = StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=32,
            caption_projection_dim=32,
            pooled_projection_dim=32,
            pos_embed_max_size=16,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(
            latent_channels=16, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False
        ),
        text_encoder=clip_text(16),
        tokenizer=tokenizer(),
        text_encoder_2=clip_text(16, "gelu"),
        tokenizer_2=tokenizer(),
        text_encoder_3=encoder,
        tokenizer_3=pieces,
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


MAKERS = {"sdxl": make_sdxl, "sd3": make_sd3, "flux": make_flux}
