"""Qdrant in its local mode: its own code, without a server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from audit.errors import AuditError, Incomplete
from audit.retrieval import EmbeddingFolder, open_index
from audit.retrieval.card import write_card
from audit.retrieval.qdrant import QdrantIndex, keeps_full_vectors, load

from .embedded import nearest, vectors, write_folder

ROWS = vectors(120)
QUERIES = vectors(9, seed=1) * 3


@pytest.fixture
def folder(tmp_path: Path) -> EmbeddingFolder:
    return EmbeddingFolder(write_folder(tmp_path / "e", ROWS[:40], ROWS[40:]))


@pytest.fixture
def place(tmp_path: Path) -> str:
    return f"{tmp_path / 'qdrant'}#tiny"


def test_neighbours_are_those_of_a_full_sort(folder: EmbeddingFolder, place: str):
    assert load(folder, place) == (120, 0)
    index = open_index(f"qdrant:{place}")
    assert len(index) == 120 and index.dimension == 16
    found = index.search(QUERIES, 7)
    ids, scores = nearest(ROWS, QUERIES, 7)
    assert (found.ids == ids).all() and found.exact
    assert found.scores == pytest.approx(scores, abs=1e-5)
    index.close()


def test_the_payload_is_the_metadata_in_the_order_asked_for(folder: EmbeddingFolder, place: str):
    load(folder, place)
    index = QdrantIndex(place)
    ids = [110, 3, 3, 39]
    assert index.metadata(ids).to_dict("list") == folder.metadata(ids).to_dict("list")
    with pytest.raises(AuditError, match="has no row 120"):
        index.metadata([3, 120])
    index.close()


def test_an_interrupted_load_goes_on_where_it_stopped(
    folder: EmbeddingFolder, place: str, monkeypatch: pytest.MonkeyPatch
):
    whole, sent = QdrantClient.upsert, []

    def upsert(self: QdrantClient, name: str, points: list[models.PointStruct], **more: bool):
        if len(sent) == 60:
            raise KeyboardInterrupt
        sent.extend(point.id for point in points)
        return whole(self, name, points, **more)

    monkeypatch.setattr(QdrantClient, "upsert", upsert)
    with pytest.raises(KeyboardInterrupt):
        load(folder, place, batch=20)
    sent.clear()
    assert load(folder, place, batch=25) == (70, 0)  # rows 50 to 59 are sent again
    assert sent == list(range(50, 120))
    assert load(folder, place, batch=25) == (0, 0)
    index = QdrantIndex(place)
    assert (index.search(QUERIES, 7).ids == nearest(ROWS, QUERIES, 7)[0]).all()
    index.close()


def test_rows_that_are_not_finite_are_left_out_and_counted(tmp_path: Path, place: str):
    rows = ROWS.copy()
    rows[5], rows[119] = np.nan, 0
    folder = EmbeddingFolder(write_folder(tmp_path / "n", rows))
    assert load(folder, place, batch=32) == (118, 2)
    index = QdrantIndex(place)
    assert len(index) == 118
    assert not np.isin(index.search(QUERIES, 118).ids, [5, 119]).any()
    index.close()


def test_a_collection_of_other_rows_is_not_added_to(tmp_path: Path, folder, place: str):
    load(folder, place)
    for name, other in {
        "others": vectors(120, seed=5),
        "fewer": ROWS[:80],
        "wider": vectors(120, 32),
    }.items():
        with pytest.raises(AuditError, match="holds other rows"):
            load(EmbeddingFolder(write_folder(tmp_path / name, other)), place)


def test_with_the_vectors_at_hand_rows_are_scored_anew(folder: EmbeddingFolder, tmp_path: Path):
    client = QdrantClient(":memory:")
    load(folder, ":memory:#tiny", client=client)
    index = QdrantIndex(":memory:#tiny", client=client, embeddings=folder)
    found = index.search(QUERIES, 3)
    ids, scores = nearest(ROWS, QUERIES, 3)
    assert found.exact and (found.ids == ids).all()
    assert found.scores == pytest.approx(scores, abs=1e-6)
    other = write_folder(tmp_path / "o", vectors(120, seed=9))
    with pytest.raises(AuditError, match="not the folder that the index was built from"):
        QdrantIndex(":memory:#tiny", client=client, embeddings=other).search(QUERIES, 3)


def test_scores_of_a_quantised_collection_are_not_exact():
    client = QdrantClient(":memory:")
    size = models.VectorParams(size=16, distance=models.Distance.COSINE)
    client.create_collection("tiny", vectors_config=size)
    config = client.get_collection("tiny").config
    assert keeps_full_vectors(config)
    int8 = models.ScalarQuantizationConfig(type=models.ScalarType.INT8)
    config.quantization_config = models.ScalarQuantization(scalar=int8)
    assert not keeps_full_vectors(config)
    config.quantization_config = None
    config.params.vectors = size.model_copy(update={"datatype": models.Datatype.UINT8})
    assert not keeps_full_vectors(config)


def test_what_the_folder_declares_goes_along(folder: EmbeddingFolder):
    client = QdrantClient(":memory:")
    load(folder, ":memory:#laion400m", client=client)
    with pytest.raises(AuditError, match="--allow-legacy-laion"):
        QdrantIndex(":memory:#laion400m", client=client)
    assert len(QdrantIndex(":memory:#laion400m", client=client, allow_legacy_laion=True)) == 120
    write_card(folder.path, {"dataset": "our-portraits"})
    load(folder, ":memory:#not-laion", client=client)
    assert len(QdrantIndex(":memory:#not-laion", client=client)) == 120


def test_a_key_is_not_sent_unencrypted_to_another_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("QDRANT_API_KEY", "secret")
    with pytest.raises(AuditError, match="would get the key unencrypted") as caught:
        open_index("qdrant:http://qdrant.example:6333#rows")
    assert "secret" not in str(caught.value)


def test_filters_and_exclusions_leave_rows_out(folder: EmbeddingFolder, place: str, tmp_path: Path):
    load(folder, place)
    ids = nearest(ROWS, QUERIES[:1], 120)[0][0]
    best = next(i for i in ids if i % 5)
    listed = tmp_path / "out.txt"
    listed.write_text(f"{best}\n")
    index = QdrantIndex(place, filters=["punsafe < 0.5"], exclude=listed)
    found = index.search(QUERIES[:1], 6)
    assert found.ids[0].tolist() == [i for i in ids if i % 5 and i != best][:6]
    index.close()


@pytest.mark.filterwarnings(  # qdrant-client does not close the lock that it cannot take
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)
def test_what_is_not_there_is_said_in_one_line(folder: EmbeddingFolder, place: str, tmp_path: Path):
    load(folder, place)
    directory = place.partition("#")[0]
    for where, said in {
        f"{directory}#other": "no collection 'other'; there are: tiny",
        f"{tmp_path}/nowhere#tiny": "no folder",
        directory: "is no place of Qdrant",
    }.items():
        with pytest.raises(AuditError, match=said) as caught:
            QdrantIndex(where)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "nowhere").exists()
    index = QdrantIndex(place)
    with pytest.raises(AuditError, match="holds 16-d"):
        index.search(QUERIES[:, :8], 3)
    with pytest.raises(AuditError, match="already accessed"):
        QdrantIndex(place)
    index.close()


def test_a_server_that_is_not_there_is_incomplete_work():
    with pytest.raises(Incomplete, match="no answer"):
        QdrantIndex("http://127.0.0.1:9#tiny", timeout=2)


def test_the_payload_is_plain_json(folder: EmbeddingFolder, place: str):
    load(folder, place)
    client = QdrantClient(path=place.partition("#")[0])
    payload = client.retrieve("tiny", [3])[0].payload
    assert json.loads(json.dumps(payload)) == folder.metadata([3]).iloc[0].to_dict()
    client.close()
