"""Exact search over embedding folders in clip-retrieval's form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from audit.errors import AuditError
from audit.retrieval import EmbeddingFolder, search


def make(folder: Path, shards: list[np.ndarray], dtype: str = "float16") -> Path:
    (folder / "img_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    start = 0
    for number, rows in enumerate(shards):
        np.save(folder / f"img_emb/img_emb_{number}.npy", rows.astype(dtype))
        pd.DataFrame(
            {
                "image_path": [f"{i}" for i in range(start, start + len(rows))],
                "caption": [f"caption {i}" for i in range(start, start + len(rows))],
            }
        ).to_parquet(folder / f"metadata/metadata_{number}.parquet")
        start += len(rows)
    return folder


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("block", [7, 64, 10_000])
def test_the_nearest_are_those_of_a_full_sort(tmp_path: Path, dtype: str, block: int):
    rng = np.random.default_rng(0)
    shards = [rng.normal(size=(n, 16)) * 3 for n in (50, 1, 149)]
    folder = EmbeddingFolder(make(tmp_path / "e", shards, dtype))
    queries = rng.normal(size=(9, 16)).astype(np.float32)
    found = search(folder, queries, k=5, block=block)
    rows = np.concatenate(shards).astype(dtype).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ rows.T
    order = np.argsort(-cosines, axis=1)[:, :5]
    assert (found.ids == order).all()
    assert found.scores == pytest.approx(np.take_along_axis(cosines, order, axis=1), abs=1e-5)
    assert (
        folder.metadata(found.ids[0].tolist()).image_path.tolist() == order[0].astype(str).tolist()
    )


@pytest.mark.parametrize("block", [3, 1000])
def test_duplicates_come_in_the_order_of_their_ids(tmp_path: Path, block: int):
    one = np.eye(4)[0]
    shards = [np.stack([np.eye(4)[1], one, one]), np.stack([one] * 20 + [np.eye(4)[2]])]
    folder = EmbeddingFolder(make(tmp_path / "e", shards))
    found = search(folder, one[None].astype(np.float32), k=6, block=block)
    assert found.ids.tolist() == [[1, 2, 3, 4, 5, 6]]


def test_asking_for_more_than_there_is_gives_all(tmp_path: Path):
    folder = EmbeddingFolder(make(tmp_path / "e", [np.eye(3)]))
    assert search(folder, np.eye(3, dtype=np.float32), k=10).ids.shape == (3, 3)
    with pytest.raises(ValueError, match="do not fit"):
        search(folder, np.zeros((1, 4), np.float32))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "metadata/metadata_1.parquet").unlink(), "2 img_emb.* and 1 metadata"),
        (lambda f: np.save(f / "img_emb/img_emb_1.npy", np.eye(4)[:2]), "2 rows and .* has 4"),
        (lambda f: np.save(f / "img_emb/img_emb_1.npy", np.eye(4)[:, :3]), "3 columns, not 4"),
        (lambda f: (f / "img_emb/img_emb_0.npy").write_bytes(b"\x93NUMPY"), "is damaged"),
        (lambda f: np.save(f / "img_emb/img_emb_0.npy", np.array([{}])), "is damaged"),
        (lambda f: np.save(f / "img_emb/img_emb_0.npy", np.eye(4, dtype=int)), "not a matrix of"),
    ],
)
def test_a_damaged_shard_is_named(tmp_path: Path, harm, message: str):
    folder = make(tmp_path / "e", [np.eye(4), np.eye(4)])
    harm(folder)
    with pytest.raises(AuditError, match=message):
        EmbeddingFolder(folder)
