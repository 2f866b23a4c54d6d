"""The names of Stable Diffusion's tensors: diffusers' and those of the original code (LDM).

The layout is that of CompVis' openaimodel.py and model.py and of OpenCLIP's text transformer. Every
function takes a name of diffusers or transformers and gives the original one, so a model's own list
of tensors says what a file must hold.
"""

from __future__ import annotations

import re

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
EMBEDDED = f"{CLIP}text_model.embeddings.position_embedding.weight"

_UNET_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "class_embedding": "label_emb",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_OPEN_CLIP = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_OPEN_CLIP_TOP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}


def unet_name(name: str, layers: int, attends: tuple[bool, ...]) -> str:
    """Of a UNet's tensor.

    Args:
        name: in UNet2DConditionModel.
        layers: resnets of a down block (`layers_per_block`).
        attends: for each up block whether it attends to the text.

    >>> unet_name("up_blocks.0.upsamplers.0.conv.bias", 2, (False, True))
    'model.diffusion_model.output_blocks.2.1.conv.bias'
    """
    part, dot, leaf = name.rpartition(".")
    if part in _UNET_TOP:
        return f"{UNET}{_UNET_TOP[part]}{dot}{leaf}"
    if found := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)", name):
        way, kind, inner = found[1], found[3], found[5]
        # An up block has one resnet more, and a down block is followed by its downsampler.
        place = int(found[2]) * (layers + 1) + int(found[4])
        block = f"input_blocks.{place + 1}" if way == "down" else f"output_blocks.{place}"
        if kind == "resnets":
            return f"{UNET}{block}.0.{_rename(inner, _RESNET)}"
        return f"{UNET}{block}.1.{inner}"
    if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", name):
        if found[1] == "resnets":
            return f"{UNET}middle_block.{2 * int(found[2])}.{_rename(found[3], _RESNET)}"
        return f"{UNET}middle_block.1.{found[3]}"
    if found := re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.+)", name):
        return f"{UNET}input_blocks.{(int(found[1]) + 1) * (layers + 1)}.0.op.{found[2]}"
    if found := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.+)", name):
        level = int(found[1])
        slot = 2 if attends[level] else 1
        return f"{UNET}output_blocks.{level * (layers + 1) + layers}.{slot}.conv.{found[2]}"
    raise KeyError(name)


def vae_name(name: str, blocks: int) -> str:
    """Of an autoencoder's tensor.

    Args:
        name: in AutoencoderKL.
        blocks: the number of resolutions.
    """
    if found := re.fullmatch(r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(.+)", name):
        half, way, level, inner = found[1], found[2], int(found[3]), found[4]
        if way == "up":
            level = blocks - 1 - level  # the original counts by resolution, not by order
        inner = re.sub(r"^resnets\.(\d+)\.", r"block.\1.", inner)
        inner = re.sub(r"^(down|up)samplers\.0\.conv\.", r"\1sample.conv.", inner)
        return f"{VAE}{half}.{way}.{level}.{inner}".replace("conv_shortcut", "nin_shortcut")
    if found := re.fullmatch(r"(encoder|decoder)\.mid_block\.resnets\.(\d)\.(.+)", name):
        inner = found[3].replace("conv_shortcut", "nin_shortcut")
        return f"{VAE}{found[1]}.mid.block_{int(found[2]) + 1}.{inner}"
    if found := re.fullmatch(r"(encoder|decoder)\.mid_block\.attentions\.0\.(.+)", name):
        return f"{VAE}{found[1]}.mid.attn_1.{_rename(found[2], _VAE_ATTENTION)}"
    return VAE + name.replace("conv_norm_out", "norm_out")


def clip_name(name: str) -> str:
    """Of a tensor of v1's text encoder (CLIPTextModel)."""
    return f"{CLIP}text_model.{name}"


def open_clip_name(name: str) -> tuple[str, int | None]:
    """Of a tensor of 2.x's text encoder, and which third of it (query, key, value), if any."""
    if name in _OPEN_CLIP_TOP:
        return OPEN_CLIP + _OPEN_CLIP_TOP[name], None
    found = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    if not found:
        raise KeyError(name)
    block = f"{OPEN_CLIP}transformer.resblocks.{found[1]}"
    if projection := re.fullmatch(r"self_attn\.([qkv])_proj", found[2]):
        return f"{block}.attn.in_proj_{found[3]}", "qkv".index(projection[1])
    return f"{block}.{_OPEN_CLIP[found[2]]}.{found[3]}", None


def _rename(inner: str, names: dict[str, str]) -> str:
    part, _, leaf = inner.rpartition(".")
    return f"{names[part]}.{leaf}"
