"""LoRA files change the model as their paper says, and are hashed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from audit.backends.checkpoints import (
    sha256_file,
)
from audit.backends.lora import load_lora
from audit.errors import AuditError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("T2I_AUDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def lora_state(form: str, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """Rank 2 on two layers of the UNet and two of the text encoder, in a file's form."""
    draw = torch.Generator().manual_seed(3)
    pairs = {
        ("unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q"): (32, 32),
        ("unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k"): (32, 32),
        ("text_encoder", "encoder.layers.0.self_attn.q_proj"): (32, 32),
        ("text_encoder", "encoder.layers.0.self_attn.out_proj"): (32, 32),
    }
    state = {}
    for (part, layer), (rows, columns) in pairs.items():
        down = torch.randn(2, columns, generator=draw) * scale
        up = torch.randn(rows, 2, generator=draw) * scale
        if form == "peft":
            inside = layer if part == "unet" else f"text_model.{layer}"
            state[f"{part}.{inside}.lora_A.weight"] = down
            state[f"{part}.{inside}.lora_B.weight"] = up
        else:
            prefix = "lora_unet_" if part == "unet" else "lora_te_text_model_"
            name = prefix + layer.replace(".", "_")
            state[f"{name}.lora_down.weight"] = down
            state[f"{name}.lora_up.weight"] = up
            state[f"{name}.alpha"] = torch.tensor(2.0)
    return state


def draw(pipe: Any) -> torch.Tensor:
    images = pipe(
        "a doctor",
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).images
    return torch.as_tensor(images)


@pytest.fixture
def pipe(tiny_model: Path) -> Any:
    from diffusers import StableDiffusionPipeline

    loaded = StableDiffusionPipeline.from_pretrained(
        tiny_model, safety_checker=None, requires_safety_checker=False
    )
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.mark.parametrize("form", ["peft", "kohya"])
def test_a_lora_changes_the_images_and_at_scale_0_leaves_them(
    pipe: Any, tmp_path: Path, form: str
) -> None:
    path = tmp_path / "style.safetensors"
    save_file(lora_state(form), path)
    original = draw(pipe)
    added = load_lora(pipe, [path], [1.0])
    assert added == [{"name": "style.safetensors", "sha256": sha256_file(path), "scale": 1.0}]
    assert (draw(pipe) - original).abs().max() > 1 / 255
    pipe.unload_lora_weights()
    load_lora(pipe, [path], [0.0])
    assert torch.equal(draw(pipe), original)


def test_a_lora_is_added_as_its_paper_says(pipe: Any, tmp_path: Path) -> None:
    """h = W x + scale · B A x (Hu et al. 2021, eq. 3, with alpha equal to the rank)."""
    state = {k: v for k, v in lora_state("peft").items() if "attn2" in k}
    path = tmp_path / "style.safetensors"
    save_file(state, path)
    layer = pipe.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn2.to_q
    weight = layer.weight.detach().clone()
    load_lora(pipe, [path], [0.5])
    changed = draw(pipe)
    pipe.unload_lora_weights()
    down, up = (next(v for k, v in state.items() if f"lora_{part}" in k) for part in "AB")
    layer = pipe.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn2.to_q
    layer.weight.data = weight + 0.5 * up @ down
    assert torch.allclose(draw(pipe), changed, atol=1e-5)


def test_two_loras_add_up(pipe: Any, tmp_path: Path) -> None:
    path = tmp_path / "style.safetensors"
    save_file(lora_state("peft"), path)
    load_lora(pipe, [path, path], [0.25, 0.5])
    both = draw(pipe)
    pipe.unload_lora_weights()
    load_lora(pipe, [path], [0.75])
    assert torch.allclose(draw(pipe), both, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("style.ckpt", {}, "safetensors only"),
        ("none.safetensors", None, "cannot read"),
        ("other.safetensors", {"unet.mid.lora_A.weight": (2, 7)}, "does not fit"),
        (
            "wide.safetensors",
            {
                "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q.lora_A.weight": (
                    2,
                    99,
                ),
                "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q.lora_B.weight": (
                    32,
                    2,
                ),
            },
            "does not fit",
        ),
    ],
)
def test_a_lora_that_cannot_be_used_is_one_line(
    pipe: Any, tmp_path: Path, name: str, content: dict[str, tuple[int, int]] | None, says: str
) -> None:
    if content is not None:
        save_file({key: torch.zeros(shape) for key, shape in content.items()}, tmp_path / name)
    with pytest.raises(AuditError, match=says) as caught:
        load_lora(pipe, [tmp_path / name], [1.0])
    assert "\n" not in str(caught.value)


def test_a_lora_needs_as_many_scales_as_files_and_peft(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AuditError, match="as many scales"):
        load_lora(pipe, [tmp_path / "a.safetensors"], [1.0, 2.0])
    monkeypatch.setattr("audit.backends.lora.find_spec", lambda _: None)
    with pytest.raises(AuditError, match=r"t2i-audit\[lora\]"):
        load_lora(pipe, [tmp_path / "a.safetensors"])
    assert load_lora(pipe, []) == []
