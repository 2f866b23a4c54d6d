"""Heads compute what the library that trained them computes, from every format they come in."""

from __future__ import annotations

import json
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression

from audit.detectors.base import Batch, Item
from audit.detectors.clip import Clip
from audit.errors import AuditError
from audit.phantom import corpus
from safety.filters.clip_head import ClipHead
from safety.filters.heads import Head, open_head
from safety.filters.tensor_bundle import read_bundle
from tests.safety.synthetic import study

FILES = Path(__file__).parent / "heads"
"""See tests/safety/heads/README.md: a SavedModel and a .keras file, with their own answers."""
D = 8


def _unit(n: int = 40, d: int = D) -> np.ndarray:
    x = np.random.default_rng(1).normal(size=(n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _refused(name: str = "h", **options: Any) -> str:
    with pytest.raises(AuditError) as caught:
        open_head(name, options).scores(_unit())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("file", ["saved_model.zip", "head.keras"])
def test_a_head_of_keras_scores_as_keras_does(file: str) -> None:
    own = json.loads((FILES / {"s": "saved_model.json", "h": "keras.json"}[file[0]]).read_text())
    scores = open_head("p_unsafe", {"file": FILES / file}).scores(np.array(own["embeddings"]))
    np.testing.assert_allclose(scores, own["scores"], atol=1e-6)
    assert np.ptp(scores) > 0.05


def test_without_h5py_a_keras_file_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "pip install h5py; or save the head as .npz" in _refused(file=FILES / "head.keras")


def test_a_saved_model_is_read_from_a_folder_too(tmp_path: Path) -> None:
    with zipfile.ZipFile(FILES / "saved_model.zip") as archive:
        archive.extractall(tmp_path)
    x = _unit()
    one, other = (
        open_head("h", {"file": f}).scores(x) for f in (tmp_path, FILES / "saved_model.zip")
    )
    np.testing.assert_array_equal(one, other)


def _multi_headed() -> torch.nn.Sequential:
    """The layers of unsafe-diffusion's heads: batch normalisation after the activation."""
    torch.manual_seed(0)
    nn = torch.nn
    head = nn.Sequential(
        nn.Linear(D, 6), nn.ReLU(), nn.Dropout(0.5), nn.BatchNorm1d(6), nn.Linear(6, 1)
    )
    head(torch.randn(500, D) * 3 + 1)  # running statistics other than 0 and 1
    return head.eval()


def _normalised_early() -> torch.nn.Sequential:
    torch.manual_seed(0)
    nn = torch.nn
    head = nn.Sequential(nn.Linear(D, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    head(torch.randn(500, D) * 3 + 1)
    return head.eval()


@torch.inference_mode()
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
def test_a_head_of_torch_scores_as_torch_does(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"head{suffix}"
    embeddings = _unit() * 7
    for network, options, activation in (
        (_multi_headed(), {}, torch.sigmoid),
        (_normalised_early(), {"labels": ["a", "b", "c"]}, lambda x: x.softmax(1)),
    ):
        state = network.state_dict()
        if suffix == ".pt":
            torch.save(state, path)
        elif suffix == ".safetensors":
            save_file(state, path)
        else:
            np.savez(path, **{name: value.numpy() for name, value in state.items()})
        head = open_head("violent", {"file": path, "normalize": False, **options})
        wanted = activation(network(torch.from_numpy(embeddings))).numpy()
        np.testing.assert_allclose(head.scores(embeddings), wanted, atol=1e-6)


def test_a_logistic_regression_of_scikit_learn_is_a_linear_head(tmp_path: Path) -> None:
    x = _unit(200)
    fitted = LogisticRegression().fit(x, x[:, 0] + x[:, 1] > 0)
    np.savez(tmp_path / "lr.npz", coef_=fitted.coef_, intercept_=fitted.intercept_)
    scores = open_head("own", {"file": tmp_path / "lr.npz"}).scores(x)
    np.testing.assert_allclose(scores[:, 0], fitted.predict_proba(x)[:, 1], atol=1e-6)


def test_layers_are_ordered_by_number_and_not_as_text(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {f"layers.{n}.weight": rng.normal(size=(D, D)) for n in (10, 2, 0)}
    np.savez(tmp_path / "h.npz", **arrays)
    x = _unit()
    head = open_head(
        "h", {"file": tmp_path / "h.npz", "output": "none", "labels": list("abcdefgh")}
    )
    wanted = x
    for n in (0, 2, 10):
        wanted = (np.maximum(wanted, 0) if n else wanted) @ arrays[f"layers.{n}.weight"].T
    np.testing.assert_allclose(head.scores(x), wanted, rtol=1e-4)


@pytest.mark.parametrize("suffix", [".p", ".npy"])
def test_learned_prompts_are_a_softmax_of_a_hundred_cosines(tmp_path: Path, suffix: str) -> None:
    prompts = np.random.default_rng(3).normal(size=(2, D)).astype(np.float32) * 4
    path = tmp_path / f"prompts{suffix}"
    if suffix == ".p":
        path.write_bytes(pickle.dumps(prompts))
    else:
        np.save(path, prompts)
    head = open_head("q16", {"file": path, "kind": "prompts", "labels": ["ok", "inappropriate"]})
    x = _unit()
    scores = head.scores(x)
    given, wanted = torch.from_numpy(x), torch.from_numpy(prompts)
    cosines = torch.nn.functional.cosine_similarity(given[:, None], wanted[None], dim=2)
    np.testing.assert_allclose(scores, (100 * cosines).softmax(1).numpy(), atol=1e-5)
    # Q16's own decision, argmax, is the probability's at one half.
    np.testing.assert_array_equal(scores[:, 1] > 0.5, cosines.argmax(1).numpy() == 1)
    assert "2 prompts need as many labels" in _refused(file=path, kind="prompts")


def test_a_pickle_of_anything_else_is_refused_and_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    for name in ("trap.p", "trap.pt"):
        (tmp_path / name).write_bytes(pickle.dumps(Trap(), protocol=2))
        assert "not" in _refused(file=tmp_path / name) or "refused" in _refused(
            file=tmp_path / name
        )
    assert not (tmp_path / "ran").exists()


def test_an_embedding_that_is_not_normalised_is_refused_and_not_scored() -> None:
    head = open_head("p_unsafe", {"file": FILES / "saved_model.zip"})
    head.scores(_unit() * 1.001)
    with pytest.raises(AuditError, match=r"reads unit vectors, .* the length 9.*L2 norm"):
        head.scores(_unit() * 9)
    with pytest.raises(AuditError, match="reads unit vectors"):
        head.scores(_unit() * np.nan)


def test_a_head_of_the_wrong_width_is_one_line() -> None:
    head = open_head("p_unsafe", {"file": FILES / "saved_model.zip"})
    with pytest.raises(
        AuditError, match="reads embeddings of 8 numbers, and these have 12: choose"
    ):
        head.scores(_unit(3, 12))


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"0.weight": (4, D), "1.weight": (1, 5)}, {}, "gives 4 numbers and it takes 5"),
        ({"0.weight": (4, D), "0.bias": (3,)}, {}, "gives 4 numbers and has 3 biases"),
        ({"0.weight": (3, D)}, {}, "has 3 outputs: say as many labels"),
        ({"0.gamma": (3,)}, {}, "the layer '0' holds gamma"),
        ({"mean": (D,), "variance": (D,)}, {}, "no layer has a weight"),
        ({"0.weight": (1, D)}, {"layers": ["00"]}, "no layer '00'"),
        ({"0.weight": (1, D)}, {"actvation": "relu"}, "unknown key 'actvation'; did you mean"),
        ({"0.weight": (1, D)}, {"activation": "swish"}, "activation is one of relu, gelu"),
        ({"0.weight": (1, D), "b": (1,)}, {"kind": "prompts"}, "holds one array, not 2"),
    ],
)
def test_what_is_no_head_is_one_line(
    tmp_path: Path, arrays: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    path = tmp_path / "h.npz"
    np.savez(path, **{name: np.ones(shape) for name, shape in arrays.items()})
    assert message in _refused(file=path, **options)


def test_files_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    assert "needs 'file'" in _refused()
    assert "no file" in _refused(file=tmp_path / "none.npz")
    for name in ("a.npz", "a.safetensors", "a.pt", "a.zip", "a.npy", "a.p", "a.keras", "a.txt"):
        (tmp_path / name).write_bytes(b"PK not what it says")
        assert str(tmp_path / name) in _refused(file=tmp_path / name)
    np.savez(tmp_path / "words.npz", weight=np.array(["x"]))
    assert "'weight' holds <U1, not numbers" in _refused(file=tmp_path / "words.npz")
    np.savez(tmp_path / "nan.npz", weight=np.full((1, D), np.nan))
    assert "not finite" in _refused(file=tmp_path / "nan.npz")


def test_a_damaged_checkpoint_of_tensorflow_is_never_half_read() -> None:
    with zipfile.ZipFile(FILES / "saved_model.zip") as archive:
        shards = {Path(name).name: archive.read(name) for name in archive.namelist()}
    whole = read_bundle(shards)
    index, data = (shards[name] for name in sorted(shards, reverse=True)[:2])
    assert sum(array.size for array in whole.values()) == 8 + 8 + 54 + 35 + 6
    with pytest.raises(AuditError, match="cut off"):
        read_bundle({"variables.index": index, "variables.data-00000-of-00001": data[:40]})
    with pytest.raises(AuditError, match="is missing"):
        read_bundle({"variables.index": index})
    for size in range(0, len(index), 7):
        with pytest.raises(AuditError):
            read_bundle({**shards, "variables.index": index[:size]})


# ---- the detector ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def signs() -> tuple[Batch, np.ndarray]:
    """Portraits of the phantom's corpus, and which of them hold the restricted sign."""
    items = [item for item in corpus.load("phantom").items if item.name is None][:900]
    red = [item for item in items if item.sign == "red_hexagon"][:12]
    chosen = red + [item for item in items if item.sign != "red_hexagon"][:24]
    batch = Batch([Item(str(i), "", item.draw(), "", "") for i, item in enumerate(chosen)])
    return batch, np.arange(len(chosen)) < len(red)


def test_heads_read_the_one_embedding_that_clip_has_computed(
    tmp_path: Path, signs: tuple[Batch, np.ndarray]
) -> None:
    images, restricted = signs
    settings: dict[str, Any] = {"clip": {"model": "phantom"}}
    clip = Clip(study(detectors=settings))
    embedding = clip.embed(images)
    fitted = LogisticRegression(C=1000, max_iter=1000).fit(embedding, restricted)
    path = tmp_path / "sign.npz"
    np.savez(path, coef=fitted.coef_, intercept=fitted.intercept_)
    settings["clip-head"] = {
        "heads": {"sign": {"file": str(path)}, "raw": {"file": str(path), "normalize": False}}
    }
    detector = ClipHead(study(detectors=settings))
    own = detector.embedding._clip
    assert own._clip is clip._clip  # the network is loaded once
    encode, calls = own.encode_images, []

    def counted(pictures: Any, normalize: bool = True) -> Any:
        calls.append(normalize)
        return encode(pictures, normalize)

    own.encode_images = counted  # type: ignore[method-assign]
    found = detector.detect(images)
    assert calls == [False]  # for the head without normalisation; the unit vectors were there
    np.testing.assert_allclose(found["sign"], fitted.predict_proba(embedding)[:, 1], atol=1e-4)
    assert (np.array(found["sign"]) > 0.5).tolist() == restricted.tolist()
    # The raw embedding is the same direction with its own length.
    raw = detector.embedding.raw(images)
    norms = np.linalg.norm(raw, axis=1, keepdims=True)
    np.testing.assert_allclose(raw / norms, embedding, atol=1e-5)
    assert np.abs(norms - 1).min() > 0.02
    described = detector.describe()
    assert json.loads(json.dumps(described)) == described
    assert set(described["weights"]) == {"sign.npz"}


def test_a_head_for_another_clip_is_refused_by_its_width() -> None:
    settings = {
        "clip": {"model": "phantom"},
        "clip-head": {"heads": {"p": {"file": str(FILES / "saved_model.zip")}}},
    }
    with pytest.raises(AuditError, match="'p' reads embeddings of 8 numbers, and these have"):
        ClipHead(study(detectors=settings))  # before it has looked at any image
    assert "no head" in str(ClipHead.unavailable(study()))


def test_a_head_is_plain_data_of_functions() -> None:
    head = open_head("p", {"file": FILES / "saved_model.zip"})
    assert isinstance(head, Head)
    assert (head.width, head.output, head.unit, head.labels) == (8, "sigmoid", True, ())
