"""Every tensor of an original checkpoint gets the name that diffusers knows."""

from __future__ import annotations

import pytest
import torch
from diffusers.loaders import single_file_utils as oracle

from audit.backends import conversion, ldm
from audit.backends.architectures import ARCHITECTURES

NAMES = {key: known.name.replace(" ", "-") for key, known in ARCHITECTURES.items()}


@pytest.mark.parametrize("key", ARCHITECTURES, ids=NAMES.get)
def test_every_tensor_of_the_true_unet_and_autoencoder_is_named_as_diffusers_converts_it(
    key: tuple[int, int],
) -> None:
    known = ARCHITECTURES[key]
    for part, convert, config in (
        ("unet", oracle.convert_ldm_unet_checkpoint, known.unet),
        ("vae", oracle.convert_ldm_vae_checkpoint, known.vae),
    ):
        naming = conversion.naming(part, known, {})
        expected = conversion.expected(known, part)
        ours = {name: naming(name)[0] for name in expected}
        assert len(set(ours.values())) == len(ours)
        state = {
            original: torch.empty(expected[name], device="meta") for name, original in ours.items()
        }
        theirs = convert(dict(state), dict(config))
        assert set(theirs) == set(ours)
        for name, original in ours.items():
            assert theirs[name] is state[original], name


@pytest.mark.parametrize("key", [(4, 768), (4, 1024)], ids=NAMES.get)
def test_every_tensor_of_the_true_text_encoder_is_named_as_diffusers_converts_it(
    key: tuple[int, int],
) -> None:
    known = ARCHITECTURES[key]
    expected = conversion.expected(known, "text_encoder")
    naming = conversion.naming("text_encoder", known, {ldm.EMBEDDED: torch.zeros(1)})
    state = {}
    for name, shape in expected.items():
        original, third = naming(name)
        larger = shape if third is None else (3 * shape[0], *shape[1:])
        state[original] = torch.empty(larger, device="meta")
    if known.open_clip:
        width = known.text_encoder["hidden_size"]
        fake = type("Model", (), {"config": type("Config", (), {"hidden_size": width})})
        theirs = oracle.convert_open_clip_checkpoint(fake, state)
    else:
        theirs = oracle.convert_ldm_clip_checkpoint(state)
    shapes = {k.removeprefix("text_model."): tuple(v.shape) for k, v in theirs.items()}
    assert shapes == expected


def test_the_true_shapes_have_the_published_numbers_of_parameters() -> None:
    published = {
        (4, 768): {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
        (4, 1024): {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
        (7, 1024): {"unet": 473_398_020, "vae": 55_325_927, "text_encoder": 340_387_840},
    }
    for key, parts in published.items():
        for part, number in parts.items():
            shapes = conversion.expected(ARCHITECTURES[key], part).values()
            assert sum(torch.Size(shape).numel() for shape in shapes) == number


def test_names_are_those_of_the_published_checkpoints() -> None:
    attends = (False, True, True, True)
    cases = {
        "conv_in.weight": "input_blocks.0.0.weight",
        "time_embedding.linear_2.bias": "time_embed.2.bias",
        "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_k.weight": (
            "input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"
        ),
        "down_blocks.2.downsamplers.0.conv.weight": "input_blocks.9.0.op.weight",
        "mid_block.resnets.1.conv2.bias": "middle_block.2.out_layers.3.bias",
        "up_blocks.0.upsamplers.0.conv.bias": "output_blocks.2.1.conv.bias",
        "up_blocks.1.upsamplers.0.conv.bias": "output_blocks.5.2.conv.bias",
        "up_blocks.3.resnets.2.conv_shortcut.weight": "output_blocks.11.0.skip_connection.weight",
        "conv_norm_out.bias": "out.0.bias",
    }
    for name, original in cases.items():
        assert ldm.unet_name(name, 2, attends) == f"model.diffusion_model.{original}"
