"""faiss indices as clip-retrieval and autofaiss write them."""

from __future__ import annotations

import shutil
from pathlib import Path

import faiss
import numpy as np
import pytest

from audit.errors import AuditError
from audit.retrieval import EmbeddingFolder, faiss_index, open_index, search
from audit.retrieval.build import build

from .folders import brute_force, clustered, make

ROWS, DIMENSION = 3000, 32


@pytest.fixture(scope="module")
def vectors() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [clustered(rng, n, DIMENSION) for n in (1000, ROWS - 1000)]


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return clustered(np.random.default_rng(1), 50, DIMENSION).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path, vectors: list[np.ndarray]) -> Path:
    return make(tmp_path / "e", vectors, punsafe=np.linspace(0, 1, ROWS))


def unit(vectors: list[np.ndarray]) -> np.ndarray:
    rows = np.concatenate(vectors).astype(np.float16).astype(np.float32)
    faiss.normalize_L2(rows)
    return rows


def write(vectors: list[np.ndarray], kind: str, path: Path, metric: int = 0) -> Path:
    index = faiss.index_factory(DIMENSION, kind, metric)
    index.train(unit(vectors))
    index.add(unit(vectors))
    faiss.write_index(index, str(path))
    return path


KINDS = ["Flat", "IVF16,Flat", "IVF16,SQ8", "IVF16,PQ8x4", "HNSW32", "PCAR24,IVF16,SQ8", "SQ8"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_reranked_by_the_full_vectors(folder: Path, vectors, queries, kind: str):
    write(vectors, kind, folder / "image.index", faiss.METRIC_INNER_PRODUCT)
    options = {"nprobe": 16} if "IVF" in kind else {}
    index = open_index(folder / "image.index", candidates=1500, **options)
    found = index.search(queries, 10)
    ids, scores = brute_force(vectors, queries, 10)
    assert found.exact
    recall = np.mean([np.isin(a, b).mean() for a, b in zip(ids, found.ids, strict=True)])
    assert recall >= (0.95 if "HNSW" in kind else 0.99)
    same = found.ids == ids
    assert found.scores[same] == pytest.approx(scores[same], abs=1e-7)
    assert index.metadata([1500]).image_path.tolist() == ["1500"]


def test_scores_without_the_full_vectors_are_marked_approximate(
    tmp_path: Path, folder: Path, vectors, queries
):
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copytree(folder / "metadata", alone / "metadata")
    write(vectors, "IVF16,PQ4x4", alone / "image.index", faiss.METRIC_INNER_PRODUCT)
    found = open_index(alone, nprobe=16).search(queries, 5)
    assert not found.exact
    _, true = brute_force(vectors, queries, 5)
    assert np.abs(found.scores - true).max() > 0.01  # what a threshold would be misled by
    # The same index beside its embeddings is exact.
    reranked = open_index(alone, embeddings=folder, nprobe=16, candidates=1500)
    assert reranked.search(queries, 5).exact


@pytest.mark.parametrize("metric", [faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2])
def test_approximate_rows_are_ordered_by_score_and_id(
    tmp_path: Path, vectors, queries, metric: int
):
    copies = np.concatenate([vectors[0][:60]] * 2)
    write([copies], "IVF4,Flat", tmp_path / "image.index", metric)
    found = open_index(tmp_path / "image.index", nprobe=4).search(queries[:5], 150)
    assert (found.ids[:, 120:] == -1).all() and np.isnan(found.scores[:, 120:]).all()
    ids, scores = found.ids[:, :120], found.scores[:, :120]
    assert (np.diff(scores) <= 0).all()
    assert (ids[:, 1::2] == ids[:, ::2] + 60).all()  # a row before its copy
    _, true = brute_force([copies], queries[:5], 120)
    assert scores == pytest.approx(true, abs=1e-5)


def test_lists_are_read_ahead_only_where_they_do_not_fit_into_memory(
    tmp_path: Path, vectors, monkeypatch: pytest.MonkeyPatch
):
    path = write(vectors, "PCAR24,IVF16,SQ8", tmp_path / "image.index")

    def threads() -> int:
        index = faiss_index.read(path)
        lists = faiss.downcast_InvertedLists(faiss.extract_index_ivf(index).invlists)
        return lists.prefetch_nthread

    assert threads() == 0
    monkeypatch.setattr(faiss_index, "_memory", lambda: path.stat().st_size)
    assert threads() == 32


@pytest.mark.parametrize("metric", [faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2])
def test_a_flat_index_holds_the_full_vectors_itself(tmp_path: Path, vectors, queries, metric: int):
    write(vectors, "Flat", tmp_path / "image.index", metric)
    found = open_index(tmp_path / "image.index").search(queries, 5)
    ids, scores = brute_force(vectors, queries, 5)
    assert found.exact and (found.ids == ids).all()
    assert found.scores == pytest.approx(scores, abs=1e-6)


def test_squared_distances_become_cosines(tmp_path: Path, vectors, queries):
    write(vectors, "IVF16,SQ8", tmp_path / "image.index", faiss.METRIC_L2)
    found = open_index(tmp_path, nprobe=16).search(queries, 5)
    _, scores = brute_force(vectors, queries, 5)
    assert not found.exact
    assert found.scores == pytest.approx(scores, abs=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_filtered_out_are_not_found(folder: Path, vectors, queries, kind: str):
    write(vectors, kind, folder / "image.index", faiss.METRIC_INNER_PRODUCT)
    options = {"nprobe": 16} if "IVF" in kind else {}
    found = open_index(
        folder / "image.index", filters=["punsafe < 0.3"], candidates=900, **options
    ).search(queries, 5)
    kept = np.linspace(0, 1, ROWS) < 0.3
    assert kept[found.ids].all()
    assert found.left_out == {"filter: punsafe < 0.3": int((~kept).sum())}
    wanted = search(EmbeddingFolder(folder), queries, ROWS).ids
    nearest = np.array([row[kept[row]][:5] for row in wanted])
    assert np.isin(found.ids, nearest).mean() > 0.95


def test_an_index_folder_with_lists_on_disk_is_opened_where_it_was_moved(
    tmp_path: Path, folder: Path, vectors, queries
):
    report = build(EmbeddingFolder(folder), folder, flat_up_to=100, on_disk=True)
    names = sorted(path.name for path in (folder / "image.index").iterdir())
    assert names == ["merged_index.ivfdata", "populated.index"]
    moved = tmp_path / "moved"
    folder.rename(moved)
    index = open_index(moved / "image.index", nprobe=lists(report))
    found = index.search(queries, 10)
    ids, _ = brute_force(vectors, queries, 10)
    assert len(index) == ROWS and found.exact
    assert (found.ids == ids).mean() > 0.99


def lists(report: dict) -> int:
    return int(report["kind"].removeprefix("IVF").partition(",")[0])


@pytest.mark.parametrize("shape", ["file", "folder", "empty"])
def test_a_damaged_index_is_named_in_one_line(tmp_path: Path, shape: str):
    path = tmp_path / "image.index"
    if shape == "file":
        path.write_bytes(b"IxFI not a faiss index")
    else:
        path.mkdir()
        if shape == "folder":
            (path / "populated.index").write_bytes(b"IwSq")
    with pytest.raises(AuditError, match=r"image\.index is (damaged|no faiss index)") as caught:
        open_index(path)
    assert "\n" not in str(caught.value)


def test_an_index_of_other_embeddings_is_refused(tmp_path: Path, folder: Path, vectors):
    write(vectors[:1], "Flat", folder / "image.index")
    with pytest.raises(AuditError, match=r"holds 1000 vectors and the embeddings .* 3000 rows"):
        open_index(folder / "image.index")
    other = make(tmp_path / "other", [np.ones((1000, 4))])
    with pytest.raises(AuditError, match=r"holds 32-d vectors and .* 4-d ones"):
        open_index(folder / "image.index", embeddings=other)


def test_vectors_of_other_rows_are_noticed_though_their_number_fits(
    tmp_path: Path, vectors, queries
):
    write(vectors, "Flat", tmp_path / "image.index")
    turned = make(tmp_path / "other", [np.roll(rows, 1, axis=1) for rows in vectors])
    with pytest.raises(AuditError, match="give other similarities"):
        open_index(tmp_path / "image.index", embeddings=turned).search(queries, 3)


def test_what_an_index_cannot_do_is_said(tmp_path: Path, vectors, queries):
    write(vectors, "Flat", tmp_path / "image.index")
    with pytest.raises(AuditError, match="nprobe does not apply"):
        open_index(tmp_path, nprobe=4)
    with pytest.raises(AuditError, match=r"no metadata.* to filter by"):
        open_index(tmp_path, filters=["punsafe < 1"])
    with pytest.raises(AuditError, match="no metadata"):
        open_index(tmp_path).metadata([0])
    with pytest.raises(AuditError, match=r"do not fit .* 32-d"):
        open_index(tmp_path).search(queries[:, :3], 1)
    with pytest.raises(AuditError, match="no faiss index"):
        open_index(tmp_path / "other.index")
    with pytest.raises(AuditError, match=r"neither text_emb/\*\.npy nor text\.index"):
        open_index(tmp_path, modality="text")
    with pytest.raises(AuditError, match="no index"):
        open_index(tmp_path / "nowhere")
