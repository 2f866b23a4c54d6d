"""Single files become diffusers folders: every tensor, once; the same images; offline."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from audit.backends import conversion, digests, ldm, single_file
from audit.backends.aliases import FAMILY
from audit.backends.architectures import ARCHITECTURES, Architecture, scheduler
from audit.backends.checkpoints import check_folder, origin, resolve, sha256_file, weight_hashes
from audit.backends.clip_tokenizer import clip_tokenizer
from audit.errors import AuditError
from audit.phantom import path as phantom_path

TEXTS = [
    "",
    "a photograph of an astronaut riding a horse",
    "Don't! We'll see, I'm 123 4567 years old... they've said 'it's'",
    "  spaces \n and\ttabs  ",
    "a_b-c/d (x) [y] {z} <w> #tag @name 50% $3.99",
    "Ein Büro voller Größe, naïve café, l'avion d'été, ß İ",
    "日本語の写真 と 漢字",
    "हिन्दी चित्र",
    "صورة عربية",
    "один врач в больнице",
    "emoji 🎉👩🏽‍🚀 and ½ ² ™ symbols",
    "x" * 300,
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("T2I_AUDIT_CACHE", str(folder))
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[int, int], Architecture]:
    """The architectures at a 20th of their width: the same blocks, the same names."""
    made = {}
    for key, known in ARCHITECTURES.items():
        width = 64 if known.open_clip else 32
        unet = {**known.unet, "cross_attention_dim": width, "norm_num_groups": 8}
        unet["block_out_channels"] = [16, 32, 32, 32]
        heads = known.unet["attention_head_dim"]
        unet["attention_head_dim"] = 4 if isinstance(heads, int) else [2, 4, 4, 4]
        unet["sample_size"] = 8
        vae = {**known.vae, "norm_num_groups": 8, "sample_size": 64}
        vae["block_out_channels"] = [8, 16, 16, 16][: len(known.vae["block_out_channels"])]
        text = {
            **known.text_encoder,
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_attention_heads": 2,
            "num_hidden_layers": 3,
            "projection_dim": width,
        }
        made[key[0], width] = replace(known, unet=unet, vae=vae, text_encoder=text)
    monkeypatch.setattr(single_file, "ARCHITECTURES", made)
    return made


def random_pipeline(known: Architecture, prediction_type: str = "epsilon") -> Any:
    """A pipeline of the architecture with random weights, made by diffusers itself."""
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(1)
    config = scheduler(known, prediction_type)
    parts: dict[str, Any] = {
        "unet": diffusers.UNet2DConditionModel(**known.unet),
        "vae": diffusers.AutoencoderKL(**known.vae),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**known.text_encoder)).eval(),
        "tokenizer": clip_tokenizer(known.pad_token),
        "scheduler": getattr(diffusers, config["_class_name"]).from_config(config),
    }
    for part in ("unet", "vae"):
        parts[part].eval()
    if known.pipeline == "StableDiffusionPipeline":
        parts |= {"safety_checker": None, "feature_extractor": None}
        return diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False)
    return parts


def original_names(known: Architecture, parts: Any) -> dict[str, torch.Tensor]:
    """What a training checkpoint of the same weights holds, with the rest that it carries."""
    get = parts.get if isinstance(parts, dict) else lambda part: getattr(parts, part)
    state: dict[str, torch.Tensor] = {}
    thirds: dict[str, dict[int, torch.Tensor]] = {}
    for part in conversion.PARTS:
        naming = conversion.naming(part, known, {ldm.EMBEDDED: torch.zeros(1)})
        for name, tensor in get(part).state_dict().items():
            key, third = naming(name)
            if third is None:
                state[key] = tensor.clone()
            else:
                thirds.setdefault(key, {})[third] = tensor
    for key, found in thirds.items():
        state[key] = torch.cat([found[0], found[1], found[2]])
    for key in list(state):
        if ".mid.attn_1." in key and state[key].ndim == 2:
            state[key] = state[key][:, :, None, None]  # the original has 1×1 convolutions
    state["betas"] = torch.zeros(1000)
    state["model_ema.decay"] = torch.tensor(0.9999)
    state[f"{ldm.CLIP}text_model.embeddings.position_ids"] = torch.arange(77)[None]
    if known.open_clip:
        width = known.text_encoder["hidden_size"]
        state[f"{ldm.OPEN_CLIP}text_projection"] = torch.zeros(width, width)
        state[f"{ldm.OPEN_CLIP}logit_scale"] = torch.tensor(4.6)
        last = known.text_encoder["num_hidden_layers"]
        state[f"{ldm.OPEN_CLIP}transformer.resblocks.{last}.ln_1.weight"] = torch.ones(width)
        del state[f"{ldm.CLIP}text_model.embeddings.position_ids"]
    return state


def images(pipe: Any) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    for part in conversion.PARTS:
        # Kernels round differently where a tensor, mapped from a file, is not aligned in memory.
        for parameter in getattr(pipe, part).parameters():
            parameter.data = parameter.data.clone()
    made = pipe(
        ["a doctor", "a nurse in São Paulo"],
        num_inference_steps=3,
        generator=[torch.Generator().manual_seed(seed) for seed in (0, 1)],
        output_type="pt",
    ).images
    return torch.as_tensor(made)


# Whole files.


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("key", [(4, 32), (4, 64)], ids=["v1", "v2"])
def test_a_single_file_gives_the_images_of_the_pipeline_it_holds(
    small: dict[tuple[int, int], Architecture], tmp_path: Path, key: tuple[int, int], suffix: str
) -> None:
    pipe = random_pipeline(small[key])
    state = original_names(small[key], pipe)
    path = tmp_path / f"model{suffix}"
    if suffix == ".ckpt":
        torch.save({"state_dict": state, "global_step": 1}, path)
    else:
        save_file(state, path)
    folder = resolve(str(path), prediction_type="epsilon")
    check_folder(folder)
    loaded = diffusers.StableDiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    for part in conversion.PARTS:
        before, after = getattr(pipe, part).state_dict(), getattr(loaded, part).state_dict()
        assert set(before) == set(after)
        assert all(torch.equal(before[name], after[name]) for name in before), part
    assert loaded.tokenizer.pad_token_id == (0 if key == (4, 64) else 49407)
    assert torch.equal(images(loaded), images(pipe))
    record = origin(folder)
    assert record["file"] == path.name and record["prediction_type"] == "epsilon"
    assert record["published_as"] == "not recognised"
    assert record["averaged_weights_ignored"] is True
    assert "conversion.json" not in weight_hashes(folder)


def test_diffusers_reads_the_same_tensors_from_the_file(
    small: dict[tuple[int, int], Architecture], tmp_path: Path
) -> None:
    known = small[4, 32]
    path = tmp_path / "model.safetensors"
    save_file(original_names(known, random_pipeline(known)), path)
    folder = resolve(str(path))
    theirs = diffusers.StableDiffusionPipeline.from_single_file(
        str(path), config=str(folder), local_files_only=True
    )
    for part in ("unet", "vae"):
        ours = load_file(folder / part / "diffusion_pytorch_model.safetensors")
        state = getattr(theirs, part).state_dict()
        assert set(ours) == set(state)
        assert all(torch.equal(ours[name], state[name]) for name in ours)


@pytest.mark.parametrize("key", [(9, 32), (9, 64), (5, 64), (7, 64)])
def test_a_variant_becomes_a_folder_that_its_pipeline_loads(
    small: dict[tuple[int, int], Architecture], tmp_path: Path, key: tuple[int, int]
) -> None:
    known = small[key]
    parts = random_pipeline(known)
    path = tmp_path / "model.safetensors"
    save_file({n: t.half() for n, t in original_names(known, parts).items()}, path)
    folder = resolve(str(path))
    check_folder(folder)
    without = {name: None for name, config in known.extra.items() if config is None}
    loaded = diffusers.DiffusionPipeline.from_pretrained(folder, use_safetensors=True, **without)
    assert type(loaded).__name__ == known.pipeline
    assert loaded.scheduler.config.prediction_type == known.predicts
    assert loaded.vae.config.scaling_factor == known.vae["scaling_factor"]
    assert torch.equal(
        loaded.unet.conv_in.weight.float(), parts["unet"].conv_in.weight.half().float()
    )
    stored = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}


def test_the_second_call_uses_the_folder_again_and_another_choice_makes_another(
    small: dict[tuple[int, int], Architecture], tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    save_file(original_names(small[4, 64], random_pipeline(small[4, 64])), path)
    folder = resolve(str(path), prediction_type="epsilon")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    made = weights.stat().st_mtime_ns
    assert resolve(str(path), prediction_type="epsilon") == folder
    assert weights.stat().st_mtime_ns == made
    other = resolve(str(path), prediction_type="v_prediction")
    assert other != folder
    config = json.loads((other / "scheduler" / "scheduler_config.json").read_text())
    assert config["prediction_type"] == "v_prediction"
    assert json.loads((other / "unet" / "config.json").read_text())["sample_size"] == 96


def test_a_conversion_that_fails_leaves_nothing(
    small: dict[tuple[int, int], Architecture],
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "model.safetensors"
    save_file(original_names(small[4, 32], random_pipeline(small[4, 32])), path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(single_file, "write_sampling", full)
    with pytest.raises(AuditError, match="No space left"):
        resolve(str(path))
    assert not [p for p in cache.rglob("*") if p.is_file() and p.suffix == ".safetensors"]
    monkeypatch.undo()


# What it predicts.


@pytest.mark.parametrize(("said", "predicts"), [("v", "v_prediction"), ("eps", "epsilon")])
def test_a_yaml_file_beside_it_says_what_2_x_predicts(
    small: dict[tuple[int, int], Architecture], tmp_path: Path, said: str, predicts: str
) -> None:
    path = tmp_path / "model.safetensors"
    save_file(original_names(small[4, 64], random_pipeline(small[4, 64])), path)
    path.with_suffix(".yaml").write_text(f"model:\n  params:\n    parameterization: {said}\n")
    record = origin(resolve(str(path)))
    assert record["prediction_type"] == predicts
    assert record["prediction_type_from"] == "model.yaml"


def test_what_2_x_predicts_is_measured_where_nothing_says_it(
    small: dict[tuple[int, int], Architecture], tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    save_file(original_names(small[4, 64], random_pipeline(small[4, 64])), path)
    record = origin(resolve(str(path)))
    # Random weights: the output has nothing of the noise.
    assert record["prediction_type_from"] == "measured"
    assert abs(record["noise_correlation"]) < 0.4


def test_the_measurement_knows_what_a_trained_model_predicts() -> None:
    predict_v, shape = single_file.denoiser(phantom_path("phantom"))
    measured = single_file.noise_correlation(predict_v, shape)
    assert single_file.told_by(measured, Path("phantom")) == "v_prediction"
    signal = 0.0047  # ᾱ at the last timestep of v1 and 2.x

    def predict_epsilon(latents: torch.Tensor, timestep: int) -> torch.Tensor:
        return (1 - signal) ** 0.5 * latents + signal**0.5 * predict_v(latents, timestep)

    measured = single_file.noise_correlation(predict_epsilon, shape)
    assert single_file.told_by(measured, Path("phantom")) == "epsilon"
    with pytest.raises(AuditError, match="prediction_type=epsilon"):
        single_file.told_by(0.6, Path("x.ckpt"))


# Bad input: one line each.


def test_an_unknown_prediction_type_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(AuditError, match="epsilon, v_prediction"):
        resolve(str(path), prediction_type="sample")


def strange_files(known: Architecture) -> dict[str, tuple[dict[str, torch.Tensor], str]]:
    whole = original_names(known, random_pipeline(known))
    first = single_file.FIRST
    cross = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    lost = "first_stage_model.decoder.mid.attn_1.q.weight"
    return {
        "lora": ({"lora_unet_x.lora_down.weight": torch.zeros(1)}, "LoRA"),
        "autoencoder": ({"first_stage_model.x": torch.zeros(1)}, "no Stable Diffusion"),
        "sdxl": ({"conditioner.embedders.0.x": torch.zeros(1)}, "SDXL"),
        "unclip": ({"model.diffusion_model.label_emb.0.0.weight": torch.zeros(1)}, "unCLIP"),
        "channels": ({first: torch.zeros(4, 8, 3, 3), cross: torch.zeros(4, 32)}, "8 input"),
        "lacks": ({k: v for k, v in whole.items() if k != lost}, "lacks 1 tensors of its vae"),
        "shape": ({**whole, lost: torch.zeros(3, 3)}, "this architecture has"),
        "more": ({**whole, "model.diffusion_model.extra": torch.zeros(1)}, "does not have"),
        "schedule": ({**whole, "alphas_cumprod": torch.zeros(1000)}, "noise schedule"),
    }


@pytest.mark.parametrize(
    "case",
    ["lora", "autoencoder", "sdxl", "unclip", "channels", "lacks", "shape", "more", "schedule"],
)
def test_a_file_that_is_no_whole_known_model_is_one_line(
    small: dict[tuple[int, int], Architecture], tmp_path: Path, case: str
) -> None:
    state, says = strange_files(small[4, 32])[case]
    path = tmp_path / "strange.safetensors"
    save_file(state, path)
    with pytest.raises(AuditError, match=says) as caught:
        resolve(str(path))
    assert "\n" not in str(caught.value) and "strange.safetensors" in str(caught.value)


def test_a_missing_or_damaged_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="no file"):
        resolve(str(tmp_path / "none.ckpt"))
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(AuditError, match="damaged"):
        resolve(str(tmp_path / "bad.safetensors"))
    path = tmp_path / "bad.yaml"
    path.write_text("model: 3")
    with pytest.raises(AuditError, match=r"bad\.yaml"):
        resolve(str(tmp_path / "bad.safetensors"))


# The tokenizer.


@pytest.mark.parametrize(("pad_token", "pad"), [("<|endoftext|>", 49407), ("!", 0)])
def test_the_tokenizer_gives_open_clips_ids(tmp_path: Path, pad_token: str, pad: int) -> None:
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPTokenizer

    theirs = SimpleTokenizer()
    clip_tokenizer(pad_token).save_pretrained(tmp_path / "tokenizer")
    ours = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert len(ours) == theirs.vocab_size == 49408 and ours.model_max_length == 77
    words = [theirs.decode([n]).strip() for n in range(0, 49406, 97)]
    texts = [*TEXTS, *(word for word in words if word.isprintable() and "\ufffd" not in word)]
    # As in the published tokenizers of 2.x, whose padding is "!", that mark has the padding's id.
    for text in texts if pad else [text.replace("!", ".") for text in texts]:
        wanted = [theirs.sot_token_id, *theirs.encode(text), theirs.eot_token_id]
        assert ours(text).input_ids == wanted, text
        padded = ours(text, padding="max_length", truncation=True, max_length=77).input_ids
        cut = [*wanted[:76], theirs.eot_token_id] if len(wanted) > 77 else wanted
        assert padded == cut + [pad] * (77 - len(cut))


def test_a_tokenizer_of_the_users_own_is_taken(
    small: dict[tuple[int, int], Architecture], tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    save_file(original_names(small[4, 32], random_pipeline(small[4, 32])), path)
    own = phantom_path("phantom")
    folder = resolve(str(path), tokenizer=own)
    for file in (own / "tokenizer").glob("*.json"):
        assert (folder / "tokenizer" / file.name).read_bytes() == file.read_bytes()
    assert origin(folder)["tokenizer"] == "option"
    with pytest.raises(AuditError, match="no tokenizer folder"):
        resolve(str(path), tokenizer=tmp_path)


def test_a_published_file_is_recognised_by_its_digest(
    small: dict[tuple[int, int], Architecture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "renamed.safetensors"
    save_file(original_names(small[4, 32], random_pipeline(small[4, 32])), path)
    known = ("owner/repository", "model.safetensors")
    monkeypatch.setitem(digests.PUBLISHED, sha256_file(path), known)
    assert origin(resolve(str(path)))["published_as"] == "owner/repository/model.safetensors"


def test_the_published_digests_are_of_the_familys_repositories() -> None:
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests.PUBLISHED)
    published = {entry.repository for entry in FAMILY.values()}
    assert {repository for repository, _ in digests.PUBLISHED.values()} - published == {
        "CompVis/stable-diffusion-v-1-4-original"
    }
