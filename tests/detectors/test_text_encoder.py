"""The detector reads a prompt exactly as the model does, with text encoders of any kind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from audit import suites
from audit.detectors import Batch, Item
from audit.detectors.base import unavailable
from audit.detectors.clip import Clip
from audit.detectors.clip_multilingual import MultilingualClip
from audit.detectors.text_encoder import TextEncoderDetector
from audit.errors import AuditError
from audit.phantom import path
from audit.spec import Spec
from audit.study import Study
from tests.tiny import make_clip

PROMPTS = ["a portrait of a doctor", "picha ya daktari", "医生 " * 20, ""]
SUITE = suites.Suite("planted", "", {})


def study(folder: Path | None, **spec) -> Study:
    return Study(Spec(device="cpu", **spec), SUITE, folder)


def batch(prompts: list[str], english: str = "a portrait of a doctor", image=None) -> Batch:
    image = image or Image.new("RGB", (32, 32))
    return Batch([Item(f"{n}", f"{n}", image, text, english) for n, text in enumerate(prompts)])


@pytest.fixture(scope="module")
def phantom() -> TextEncoderDetector:
    return TextEncoderDetector(study(path("phantom")))


def test_the_embedding_is_the_one_that_the_backend_gives_its_unet(phantom):
    from audit.backends.stable_diffusion import StableDiffusion

    backend = StableDiffusion("phantom", device="cpu")
    with torch.inference_mode():
        given = backend._text(PROMPTS)
    for prompt, encoded in zip(PROMPTS, given, strict=True):
        text = phantom._encoders[0](prompt)
        assert np.array_equal(text.embedding, encoded.states[encoded.length - 1].numpy())
        assert (text.cut, text.cut_text) == (encoded.cut, encoded.cut_text)


def test_it_is_what_transformers_pools(phantom):
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = path("phantom")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    model = CLIPTextModel.from_pretrained(folder / "text_encoder")
    for prompt in PROMPTS:
        tokens = tokenizer(prompt, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            pooled = model(tokens.input_ids).pooler_output[0].numpy()
        assert phantom._encoders[0](prompt).embedding == pytest.approx(pooled, abs=1e-5)


def test_columns_hold_drift_tokens_and_what_is_cut(phantom):
    columns = phantom.detect(batch([*PROMPTS[:3], "a portrait of a doctor"]))
    assert columns["drift"][0] == columns["drift"][3] == 0
    assert 0 < columns["drift"][1] < 2 and 0 < columns["drift"][2] < 2
    a, b = (phantom._encoders[0](PROMPTS[n]).embedding.astype(float) for n in (0, 1))
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert columns["drift"][1] == pytest.approx(1 - cosine)
    assert columns["tokens"][0] == columns["english_tokens"][2] == 5
    # 20 × 6 bytes in 30 places.
    assert columns["tokens"][2] == 120 and columns["cut"] == [0, 0, 90, 0]
    assert columns["cut_text"][2].strip() and columns["cut_text"][0] == ""
    assert {len(values) for values in columns.values()} == {4}


def test_every_text_is_encoded_once_and_says_with_which_weights(phantom, monkeypatch):
    encoder = phantom._encoders[0]
    encoder("a pilot")
    monkeypatch.setattr(encoder, "_read", lambda text: pytest.fail(f"again: {text}"))
    encoder("a pilot")
    described = phantom.describe()
    assert described["encoders"] == ["CLIPTextModel"]
    assert {file.split("/")[0] for file in described["weights"]} == {"tokenizer", "text_encoder"}


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a projecting CLIP and a T5 beside the first encoder, as SD3 has them."""
    from transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        T5Config,
        T5EncoderModel,
    )

    folder = tmp_path_factory.mktemp("model") / "three"
    first = path("phantom")
    tokenizer = CLIPTokenizer.from_pretrained(first / "tokenizer")
    torch.manual_seed(0)
    clip = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=32, projection_dim=8,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    t5 = T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    CLIPTextModelWithProjection(clip).save_pretrained(folder / "text_encoder")
    T5EncoderModel(t5).save_pretrained(folder / "text_encoder_2")
    tokenizer.save_pretrained(folder / "tokenizer")
    tokenizer.model_max_length = 10**9
    tokenizer.save_pretrained(folder / "tokenizer_2")
    index = {
        "_class_name": "StableDiffusion3Pipeline",
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "text_encoder_3": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_a_projection_and_a_t5_are_read_each_in_its_own_way(three: Path):
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel

    detector = TextEncoderDetector(study(three))
    assert [e.kind for e in detector._encoders] == ["CLIPTextModelWithProjection", "T5EncoderModel"]
    tokenizer = CLIPTokenizer.from_pretrained(three / "tokenizer")
    tokens = tokenizer(PROMPTS[1], return_tensors="pt")
    with torch.inference_mode():
        clip = CLIPTextModelWithProjection.from_pretrained(three / "text_encoder")
        projected = clip(tokens.input_ids).text_embeds[0].numpy()
        t5 = T5EncoderModel.from_pretrained(three / "text_encoder_2")
        mean = t5(tokens.input_ids).last_hidden_state[0].mean(dim=0).numpy()
    first, second = (encoder(PROMPTS[1]) for encoder in detector._encoders)
    assert first.embedding == pytest.approx(projected, abs=1e-6)
    assert second.embedding == pytest.approx(mean, abs=1e-6)
    columns = detector.detect(batch(PROMPTS[:3]))
    assert columns["cut"][2] == 90 and columns["cut_2"][2] == 0  # the second has no limit
    assert columns["tokens_2"] == columns["tokens"]


def test_a_model_elsewhere_or_with_a_lora_has_no_text_encoder_to_read(tmp_path: Path):
    reasons = [
        unavailable(TextEncoderDetector, study(None)),
        unavailable(TextEncoderDetector, study(path("phantom"), backend={"lora": "x"})),
        unavailable(TextEncoderDetector, study(tmp_path)),
    ]
    for reason, said in zip(reasons, ("not here", "LoRA", "no tokenizer"), strict=True):
        assert said in reason
    with pytest.raises(AuditError, match="detector text-encoder: the model is not here"):
        TextEncoderDetector(study(None))


def test_a_damaged_encoder_is_one_line(three: Path, tmp_path: Path):
    import shutil

    folder = shutil.copytree(three, tmp_path / "damaged")
    (folder / "text_encoder/model.safetensors").write_bytes(b"no")
    with pytest.raises(
        AuditError, match=r"cannot load the text encoder in .*text_encoder:"
    ) as said:
        TextEncoderDetector(study(folder))
    assert "\n" not in str(said.value)


def test_a_multilingual_clip_holds_the_image_against_the_asked_text_too(tmp_path: Path):
    english, other = make_clip(tmp_path / "one"), make_clip(tmp_path / "two")
    weights = other / "open_clip_model.safetensors"
    save_file({name: 1.5 * w.flip(0) for name, w in load_file(weights).items()}, weights)
    about = study(
        None,
        detectors={"clip": {"model": str(english)}, "clip-multilingual": {"model": str(other)}},
    )
    assert unavailable(MultilingualClip, about) is None
    assert "no multilingual CLIP is given" in unavailable(MultilingualClip, study(None))
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
    items = batch(PROMPTS[:2], image=image)
    first = Clip(about).detect(items)  # leaves its own embedding in the batch
    columns = MultilingualClip(about).detect(items)
    lone = Clip(study(None, detectors={"clip": {"model": str(other)}}))
    expected = [
        lone.detect(batch(PROMPTS[:2], text, image))["alignment"][n]
        for n, text in enumerate(PROMPTS[:2])
    ]
    assert columns["asked_alignment"] == pytest.approx(expected, abs=1e-6)
    assert columns["alignment"][0] == pytest.approx(columns["asked_alignment"][0])
    assert columns["alignment"] != pytest.approx(first["alignment"], abs=1e-4)
