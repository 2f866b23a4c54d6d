"""The fast mode against diffusers' own UNet, the oracle."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.backends.fast import FastUNet, fast_decoder
from audit.errors import AuditError

TOLERANCE = 1e-5
"""Largest difference of two predictions in float32, relative to the largest value."""

SMALL: Mapping[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "in_channels": 4,
    "out_channels": 4,
    "cross_attention_dim": 24,
    "norm_num_groups": 8,
    "attention_head_dim": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "v1": {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 2,
    },
    "v2": {"use_linear_projection": True, "attention_head_dim": (2, 4), "upcast_attention": True},
    "inpainting": {"in_channels": 9},
    "depth": {"in_channels": 5, "use_linear_projection": True},
    "upscaler": {
        "in_channels": 7,
        "num_class_embeds": 50,
        "only_cross_attention": (True, False),
        "use_linear_projection": True,
    },
    "unclip": {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 12},
}


def make_unet(seed: int = 0, **config: Any) -> Any:
    torch.manual_seed(seed)
    unet = diffusers.UNet2DConditionModel(**{**SMALL, **config}).eval()
    with torch.no_grad():
        for parameter in unet.parameters():
            # The default initialisation leaves the attentions and biases with almost no say.
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return unet


def labels_for(unet: Any, rows: int, equal: str, seed: int = 0) -> torch.Tensor | None:
    """Class labels that are the same in all rows, in both halves, or nowhere."""
    generator = torch.Generator().manual_seed(seed)
    if unet.config.num_class_embeds:
        labels = torch.randperm(unet.config.num_class_embeds, generator=generator)[:rows]
    elif unet.config.class_embed_type == "projection":
        width = unet.config.projection_class_embeddings_input_dim
        labels = torch.randn(rows, width, generator=generator)
    else:
        return None
    if equal == "all":
        return labels[:1].repeat_interleave(rows, 0)
    return torch.cat([labels[: rows // 2]] * 2) if equal == "halves" else labels


def difference(
    unet: Any,
    batch: int = 2,
    guided: bool = True,
    size: tuple[int, int] = (16, 16),
    equal: str = "none",
    **options: Any,
) -> float:
    """Largest difference of fast mode and oracle over the largest value of the oracle."""
    generator = torch.Generator().manual_seed(1)
    rows = 2 * batch if guided else batch
    text = torch.randn(rows, 7, unet.config.cross_attention_dim, generator=generator)
    labels = labels_for(unet, rows, equal)
    predict = FastUNet(copy.deepcopy(unet), **options).bind(text, guided, labels)
    worst = 0.0
    for t in (torch.tensor(981), torch.tensor(0.25, dtype=torch.float64)):
        latents = torch.randn(batch, unet.config.in_channels, *size, generator=generator)
        doubled = torch.cat([latents, latents]) if guided else latents
        with torch.no_grad():
            expected = unet(doubled, t, encoder_hidden_states=text, class_labels=labels).sample
            got = predict(latents, t)
        assert got.shape == expected.shape
        assert torch.isfinite(expected).all()
        assert expected.std() > 1e-3
        worst = max(worst, float((got - expected).abs().max() / expected.abs().max()))
    return worst


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_predictions_equal_those_of_diffusers(variant: str, guided: bool):
    assert difference(make_unet(**VARIANTS[variant]), guided=guided) <= TOLERANCE


@pytest.mark.parametrize("equal", ["all", "halves", "none"])
@pytest.mark.parametrize("variant", ["upscaler", "unclip"])
def test_class_labels_are_shared_only_where_they_are_equal(variant: str, equal: str):
    assert difference(make_unet(**VARIANTS[variant]), batch=3, equal=equal) <= TOLERANCE


DOWN = ("DownBlock2D", "CrossAttnDownBlock2D")
UP = {"DownBlock2D": "UpBlock2D", "CrossAttnDownBlock2D": "CrossAttnUpBlock2D"}


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    blocks=st.lists(st.sampled_from(DOWN), min_size=1, max_size=3),
    up=st.lists(st.sampled_from(DOWN), min_size=3, max_size=3),
    mid=st.sampled_from(["UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None]),
    only_cross=st.booleans(),
    linear=st.booleans(),
    layers=st.integers(1, 2),
    depth=st.integers(1, 2),
    head=st.sampled_from([2, 4]),
    act=st.sampled_from(["silu", "gelu"]),
    scale=st.sampled_from([1.0, 1.5]),
    batch=st.integers(1, 3),
    guided=st.booleans(),
    size=st.sampled_from([(8, 8), (12, 20), (7, 9)]),
    seed=st.integers(0, 9),
)
def test_any_block_layout_equals_diffusers(
    blocks, up, mid, only_cross, linear, layers, depth, head, act, scale, batch, guided, size, seed
):
    unet = make_unet(
        seed,
        block_out_channels=(8, 16, 24)[: len(blocks)],
        down_block_types=blocks,
        up_block_types=[UP[block] for block in up[: len(blocks)]],
        mid_block_type=mid,
        only_cross_attention=[only_cross] * len(blocks),
        mid_block_only_cross_attention=False,
        use_linear_projection=linear,
        layers_per_block=layers,
        transformer_layers_per_block=depth,
        attention_head_dim=head,
        act_fn=act,
        mid_block_scale_factor=scale,
        norm_num_groups=4,
    )
    assert difference(unet, batch, guided, size) <= TOLERANCE


def test_the_shared_prefix_is_computed_once_and_the_text_projected_once():
    unet = make_unet(**VARIANTS["inpainting"])
    fast = FastUNet(unet)
    rows: dict[str, list[int]] = {}

    def count(name: str, module: Any) -> Any:
        return module.register_forward_hook(
            lambda _, given, __: rows.setdefault(name, []).append(given[0].shape[0])
        )

    to_k = unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k
    forward = to_k.forward
    to_k.forward = lambda x: rows.setdefault("to_k", []).append(x.shape[0]) or forward(x)
    predict = fast.bind(torch.randn(6, 7, 24), True)
    count("conv_in", unet.conv_in)
    for number, block in enumerate(unet.down_blocks):
        count(f"down {number}", block.resnets[0].conv2)
    count("mid", unet.mid_block.resnets[0].conv2)
    for t in (9, 5):
        assert predict(torch.randn(3, 9, 16, 16), t).shape[0] == 6
    # The first attention over the text comes after the first residual block of down block 1.
    assert rows == {
        "to_k": [6],
        "conv_in": [3, 3],
        "down 0": [3, 3],
        "down 1": [3, 3],
        "mid": [6, 6],
    }


def test_two_bindings_do_not_share_their_text():
    fast = FastUNet(make_unet())
    latents = torch.randn(1, 4, 16, 16)
    first, second = (fast.bind(torch.randn(2, 7, 24), True) for _ in range(2))
    before = first(latents, 5)
    assert not torch.allclose(before, second(latents, 5), atol=1e-4)
    assert torch.equal(before, first(latents, 5))


@pytest.mark.parametrize("variant", ["v1", "upscaler"])
def test_half_precision_is_as_far_from_float32_as_diffusers_is(variant: str):
    unet = make_unet(**VARIANTS[variant])
    text, latents = torch.randn(4, 7, 24), torch.randn(2, unet.config.in_channels, 16, 16)
    labels = labels_for(unet, 4, "all")

    def oracle(model: Any, dtype: torch.dtype) -> torch.Tensor:
        doubled = torch.cat([latents, latents]).to(dtype)
        with torch.no_grad():
            return model(doubled, 9, encoder_hidden_states=text.to(dtype), class_labels=labels)[0]

    exact = oracle(unet, torch.float32)
    half = copy.deepcopy(unet).to(torch.bfloat16)
    theirs = (oracle(half, torch.bfloat16) - exact).abs().max()
    predict = FastUNet(half).bind(text.bfloat16(), True, labels)
    ours = (predict(latents.bfloat16(), 9) - exact).abs().max()
    assert 0 < float(ours) <= 2 * float(theirs)


def generate(predict: Any, scheduler: Any, latents: torch.Tensor, guidance: float) -> torch.Tensor:
    scheduler.set_timesteps(20)
    latents = latents * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        empty, given = predict(scheduler.scale_model_input(latents, t), t).chunk(2)
        noise = empty + guidance * (given - empty)
        latents = scheduler.step(noise, t, latents, return_dict=False)[0]
    return latents


def test_whole_generations_of_the_phantom_agree_to_one_of_255():
    from audit.phantom import path

    folder = path("phantom")
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae").eval()
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        folder, unet=unet, vae=vae, safety_checker=None, requires_safety_checker=False
    )
    prompts = [
        "a portrait of a doctor",
        "bir çiftçi portresi",
        "a portrait of a nurse with glasses",
    ]
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(3, 8, 16, 16, generator=generator)
    with torch.no_grad():
        given, empty = pipe.encode_prompt(prompts, "cpu", 1, True)
        text = torch.cat([empty, given])

        def reference(latents: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return unet(torch.cat([latents, latents]), t, encoder_hidden_states=text).sample

        expected = generate(reference, pipe.scheduler, noise, 3.0)
        expected = vae.decode(expected / vae.config.scaling_factor).sample
        predict = FastUNet(copy.deepcopy(unet)).bind(text, True)
        got = generate(predict, pipe.scheduler, noise, 3.0)
        got = fast_decoder(copy.deepcopy(vae))(got / vae.config.scaling_factor)
    as_bytes = [
        np.round(((x / 2 + 0.5).clamp(0, 1) * 255).numpy()).astype(int) for x in (expected, got)
    ]
    assert as_bytes[0].std() > 20
    assert np.abs(as_bytes[0] - as_bytes[1]).max() <= 1


def test_a_decoder_equals_that_of_the_vae():
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    ).eval()
    latents = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        expected = vae.decode(latents).sample
    got = fast_decoder(copy.deepcopy(vae))(latents)
    assert (got - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 8,
                "projection_class_embeddings_input_dim": 72,
            },
            "addition_embed_type=text_time",
        ),
        ({"encoder_hid_dim": 24, "encoder_hid_dim_type": "text_proj"}, "encoder_hid_dim_type"),
        ({"attention_type": "gated"}, "GatedSelfAttentionDense|GLIGEN"),
        ({"dual_cross_attention": True}, "DualTransformer2DModel"),
        ({"center_input_sample": True}, "center_input_sample=True"),
        ({"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift"),
        ({"cross_attention_norm": "layer_norm"}, "cross_attention_norm"),
        ({"time_embedding_type": "fourier"}, "GaussianFourierProjection"),
        ({"time_cond_proj_dim": 8}, "time_cond_proj_dim=8"),
        (
            {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"},
            "UNetMidBlock2DSimpleCrossAttn|AttnAddedKVProcessor",
        ),
    ],
)
def test_a_unet_with_parts_that_are_not_covered_is_refused(config, message: str):
    with pytest.raises(AuditError, match=message) as caught:
        FastUNet(make_unet(**config))
    assert "mode=reference" in str(caught.value) and "\n" not in str(caught.value)


class Wrapped(torch.nn.Linear):
    """What a LoRA layer is: a layer that is not what it was."""


def attach(unet: Any, what: str) -> None:
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn2
    if what == "processor":
        attention.set_processor(AttnProcessor())
    elif what == "hook":
        attention.register_forward_hook(lambda *_: None)
    elif what == "freeu":
        unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    else:
        attention.to_q = Wrapped(
            attention.to_q.in_features, attention.to_q.out_features, bias=False
        )


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("processor", "attention processor AttnProcessor;"),
        ("hook", "has a hook"),
        ("freeu", "FreeU"),
        ("lora", "is a Wrapped"),
    ],
)
def test_what_is_attached_to_the_unet_is_never_passed_over(what: str, message: str):
    unet = make_unet()
    fast = FastUNet(unet)
    attach(unet, what)
    with pytest.raises(AuditError, match=message):
        fast.bind(torch.randn(2, 7, 24), True)


def test_wrong_shapes_are_one_clear_line():
    fast = FastUNet(make_unet())
    with pytest.raises(AuditError, match="even number of text rows, not 3"):
        fast.bind(torch.randn(3, 7, 24), True)
    with pytest.raises(AuditError, match="bound to a batch of 2, called with 4"):
        fast.bind(torch.randn(4, 7, 24), True)(torch.randn(4, 4, 16, 16), 5)
    with pytest.raises(AuditError, match="needs class labels"):
        FastUNet(make_unet(**VARIANTS["upscaler"])).bind(torch.randn(2, 7, 24), True)


@pytest.mark.parametrize(
    "backend",
    [
        "eager",
        pytest.param(
            "inductor",
            marks=pytest.mark.skipif(
                "T2I_AUDIT_COMPILE" not in os.environ,
                reason="minutes of C++ compiling; set T2I_AUDIT_COMPILE=1",
            ),
        ),
    ],
)
def test_compiled_predictions_agree_and_their_code_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
):
    monkeypatch.setenv("T2I_AUDIT_CACHE", str(tmp_path))
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    unet = make_unet(
        block_out_channels=(8,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("UpBlock2D",),
        mid_block_type=None,
    )
    for batch in (1, 2):
        assert difference(unet, batch, compile=True) <= TOLERANCE
    if backend == "inductor":
        assert len(list((tmp_path / "compile").iterdir())) == 2
        assert difference(unet, compile=True) <= TOLERANCE
