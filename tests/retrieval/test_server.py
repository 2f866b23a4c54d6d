"""Our server: clip-retrieval's protocol, from any of our indices."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from audit.errors import AuditError
from audit.listening import listen
from audit.retrieval import EmbeddingFolder, ExactIndex, Index, Neighbours, open_index
from audit.retrieval.batching import Batcher, Overloaded
from audit.retrieval.rows import Rows, as_json
from audit.retrieval.server import application, uvicorn_server
from tests.tiny import make_clip

from .embedded import nearest, vectors, write_folder

ROWS = vectors(200)
ROWS[100:110] = ROWS[7]  # copies, as an audit looks for
QUERIES = vectors(20, seed=1) * 3


@contextmanager
def serving(indices: dict[str, Index], **options: Any) -> Iterator[tuple[str, int]]:
    """Our server in a thread, stopped at the end."""
    listener = listen("127.0.0.1", 0)
    server = uvicorn_server(application(indices, **options))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield listener.getsockname()
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def ask(
    address: tuple[str, int],
    path: str,
    body: Any = None,
    method: str = "POST",
    **headers: str,
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(*address, timeout=30)
    try:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data if method == "POST" else None, headers)
        response = connection.getresponse()
        read = response.read()
        plain = response.headers["content-type"].startswith("text/plain")
        return response.status, read.decode() if plain else json.loads(read)
    finally:
        connection.close()


def question(**changes: Any) -> dict[str, Any]:
    asked = {
        "indice_name": "tiny",
        "modality": "image",
        "num_images": 5,
        "embedding_input": QUERIES[0].tolist(),
    }
    return {name: value for name, value in {**asked, **changes}.items() if value != "absent"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("e") / "tiny", ROWS[:80], ROWS[80:])


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[tuple[str, int]]:
    with serving({"tiny": open_index(folder)}) as running:
        yield running


def test_the_answer_has_the_nearest_rows_with_their_metadata(address: tuple[str, int]):
    status, rows = ask(address, "/knn-service", question())
    ids, scores = nearest(ROWS, QUERIES[:1], 5)
    assert status == 200
    assert [row["id"] for row in rows] == ids[0].tolist()
    assert [row["similarity"] for row in rows] == pytest.approx(scores[0], abs=1e-6)
    assert rows[0]["caption"] == f"caption {ids[0][0]}"


def test_rows_past_num_images_carry_only_id_and_similarity(address: tuple[str, int]):
    _, rows = ask(address, "/knn-service", question(num_images=2, num_result_ids=6))
    assert [len(row) > 2 for row in rows] == [True, True, False, False, False, False]
    assert all(set(row) == {"id", "similarity"} for row in rows[2:])


def test_deduplicate_keeps_the_first_of_nearly_equal_rows(address: tuple[str, int]):
    copies = question(embedding_input=ROWS[7].tolist(), num_images=30)
    _, every = ask(address, "/knn-service", copies)
    _, few = ask(address, "/knn-service", {**copies, "deduplicate": True})
    assert [row["id"] for row in every[:11]] == [7, *range(100, 110)]
    assert [row["id"] for row in few] == [7, *(row["id"] for row in every[11:])]


def test_the_safety_model_is_the_metadatas_own_word(address: tuple[str, int]):
    _, every = ask(address, "/knn-service", question(num_images=50))
    _, safe = ask(address, "/knn-service", question(num_images=50, use_safety_model=True))
    assert [row["id"] for row in safe] == [row["id"] for row in every if row["id"] % 5]


def test_metadata_comes_in_the_order_asked_for(address: tuple[str, int]):
    status, rows = ask(address, "/metadata", {"indice_name": "tiny", "ids": [150, 3, 150]})
    assert status == 200 and [row["id"] for row in rows] == [150, 3, 150]
    assert rows[1]["metadata"]["caption"] == "caption 3"
    assert ask(address, "/metadata", {"indice_name": "tiny", "ids": []}) == (200, [])


def test_an_index_of_texts_answers_questions_for_texts(tmp_path: Path):
    rows = vectors(50, seed=4)
    folder = write_folder(tmp_path / "texts", rows)
    for file in folder.glob("img_emb/*"):
        file.rename(file.with_name(file.name.replace("img", "text")))
    (folder / "img_emb").rename(folder / "text_emb")
    with serving({"tiny": open_index(folder, modality="text")}) as running:
        status, found = ask(running, "/knn-service", question(modality="text"))
        assert status == 200
        assert [row["id"] for row in found] == nearest(rows, QUERIES[:1], 5)[0][0].tolist()
        status, refusal = ask(running, "/knn-service", question())
        assert status == 400 and "modality must be 'text'" in refusal["message"]


def test_the_list_of_indices_and_the_counts(address: tuple[str, int]):
    assert ask(address, "/indices-list", method="GET") == (200, ["tiny"])
    ask(address, "/knn-service", question())
    _, text = ask(address, "/metrics", method="GET")
    counts = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    assert int(counts['requests_total{path="/knn-service",status="200"}']) > 0
    assert int(counts['searched_queries_total{index="tiny"}']) > 0


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"modality": "absent"}, 400, "modality must be 'image'"),
        ({"modality": "sound"}, 400, "modality must be 'image'"),
        ({"num_images": "absent"}, 400, "num_images must be a whole number"),
        ({"num_images": -1}, 400, "num_images"),
        ({"num_images": True}, 400, "num_images"),
        ({"num_images": 10**9}, 400, "num_images"),
        ({"num_result_ids": 1.5}, 400, "num_result_ids"),
        ({"indice_name": "absent"}, 404, "there are: tiny"),
        ({"indice_name": ["tiny"]}, 404, "there are: tiny"),
        ({"embedding_input": "absent"}, 400, "one of text, image"),
        ({"text": "a cat"}, 400, "not text and embedding_input"),
        ({"embedding_input": [0.5] * 15}, 400, "has 15 numbers; the index has vectors of 16"),
        ({"embedding_input": [[0.5] * 16]}, 400, "flat list of numbers"),
        ({"embedding_input": ["1"] * 16}, 400, "flat list of numbers"),
        ({"embedding_input": [0] * 16}, 400, "not all of them 0"),
        ({"embedding_input": [float("nan")] * 16}, 400, "finite"),
        ({"embedding_input": [10**400] * 16}, 400, "too large"),
        ({"embedding_input": "absent", "image_url": "file:///etc/hostname"}, 400, "fetches noth"),
        ({"embedding_input": "absent", "image_url": "http://192.0.2.1/"}, 400, "fetches nothing"),
        ({"embedding_input": "absent", "text": "a cat"}, 400, "needs a CLIP model"),
        ({"embedding_input": "absent", "image": "AAAA"}, 400, "needs a CLIP model"),
        ({"aesthetic_score": 9}, 400, "send aesthetic_score ''"),
        ({"use_violence_detector": True}, 400, "send use_violence_detector false"),
        ({"use_mclip": True}, 400, "send use_mclip false"),
        ({"deduplicate": 1}, 400, "deduplicate must be true or false"),
    ],
)
def test_what_is_not_done_here_is_refused_with_the_reason(
    address: tuple[str, int], changes: dict[str, Any], status: int, said: str
):
    found, answer = ask(address, "/knn-service", question(**changes))
    assert (found, list(answer)) == (status, ["message"])
    assert said in answer["message"]


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/knn-service", b"{", 400, "no JSON"),
        ("/knn-service", b"[" * 100_000, 400, "no JSON"),
        ("/knn-service", b"[]", 400, "JSON object"),
        ("/metadata", {"indice_name": "tiny", "ids": [200]}, 400, "no row 200: the index has 200"),
        ("/metadata", {"indice_name": "tiny", "ids": [-1]}, 400, "no row -1"),
        ("/metadata", {"indice_name": "tiny", "ids": ["1"]}, 400, "whole numbers"),
        ("/metadata", {"indice_name": "tiny"}, 400, "ids must be a list"),
        ("/elsewhere", {}, 404, "Not Found"),
        ("/indices-list", {}, 405, "Method Not Allowed"),
    ],
)
def test_a_request_that_is_none_is_refused(
    address: tuple[str, int], path: str, body: Any, status: int, said: str
):
    found, answer = ask(address, path, body)
    assert found == status and said in answer["message"]


def test_a_body_that_is_too_large_is_not_read(address: tuple[str, int]):
    connection = http.client.HTTPConnection(*address, timeout=30)
    connection.putrequest("POST", "/knn-service")
    connection.putheader("Content-Length", str(2**40))
    connection.endheaders()
    sent = 0
    with contextlib.closing(connection), contextlib.suppress(OSError):
        while sent < 200:
            connection.send(b" " * 2**20)
            sent += 1
    assert 32 <= sent < 200


@pytest.mark.parametrize(
    "head",
    [
        b"GET /indices-list HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 64,
        b"GET /indices-list HTTP/1.1\r\nHost: localhost\r\n" + b"X: x\r\n" * 16,
        b"POST /elsewhere HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
    ],
    ids=["one header", "many headers", "trailers"],
)
def test_a_head_that_never_ends_is_not_kept(address: tuple[str, int], head: bytes):
    sent, more = 0, (b"y" * 2**16 if head.endswith(b"x") else b"X: x\r\n" * 2**13)
    connection = socket.create_connection(address, timeout=30)
    with contextlib.closing(connection), contextlib.suppress(ConnectionError):
        connection.sendall(head)
        while sent < 50 * 2**20:
            sent += connection.send(more)
    assert 2**20 <= sent < 50 * 2**20


def test_connections_are_kept_and_large_bodies_do_not_count_as_heads(address: tuple[str, int]):
    connection = http.client.HTTPConnection(*address, timeout=30)
    with contextlib.closing(connection):
        for _ in range(3):
            body = json.dumps(question()).encode() + b" " * 2**20
            for given in (body, iter([body[:1000], body[1000:]])):
                chunked = not isinstance(given, bytes)
                connection.request("POST", "/knn-service", given, encode_chunked=chunked)
                response = connection.getresponse()
                assert response.status == 200 and len(json.load(response)) == 5


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "rebound.example.org"}, 400),
        ({"Host": "192.0.2.1:80"}, 400),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:1"}, 200),
        ({"Origin": "http://rebound.example.org"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_names_and_pages_of_elsewhere_are_not_answered(
    address: tuple[str, int], headers: dict[str, str], status: int
):
    assert ask(address, "/indices-list", method="GET", **headers)[0] == status


def test_addresses_that_others_reach_are_refused_unless_asked_for():
    for host in ("0.0.0.0", "192.0.2.1", "::"):
        with pytest.raises(AuditError, match="--unsafe-address"):
            listen(host, 0)
    listen("0.0.0.0", 0, unsafe_address=True).close()
    with listen("127.0.0.1", 0) as taken, pytest.raises(AuditError, match="is in use"):
        listen("127.0.0.1", taken.getsockname()[1])


class _Slow:
    """An index whose searches wait, and are counted."""

    def __init__(self, inner: Index) -> None:
        self._inner, self.sizes, self.go = inner, [], threading.Event()
        self.name, self.dimension = inner.name, inner.dimension

    def __len__(self) -> int:
        return len(self._inner)

    def search(self, queries: np.ndarray, k: int) -> Neighbours:
        self.sizes.append((len(queries), k))
        self.go.wait(10)
        return self._inner.search(queries, k)

    def metadata(self, ids: Any) -> Any:
        return self._inner.metadata(ids)


def test_requests_that_wait_are_searched_together_and_answered_as_alone(folder: Path):
    index = _Slow(open_index(folder))
    with serving({"tiny": index}) as address, ThreadPoolExecutor(20) as pool:
        first = pool.submit(ask, address, "/knn-service", question())
        while not index.sizes:
            time.sleep(0.01)
        rest = [
            pool.submit(
                ask,
                address,
                "/knn-service",
                question(embedding_input=query.tolist(), num_images=3 + number % 2),
            )
            for number, query in enumerate(QUERIES[1:])
        ]
        while 'queries_waiting{index="tiny"} 19' not in ask(address, "/metrics", method="GET")[1]:
            time.sleep(0.01)
        index.go.set()
        answers = [first.result(), *(one.result() for one in rest)]
    assert sorted(index.sizes) == [(1, 5), (9, 4), (10, 3)]
    ids, _ = nearest(ROWS, QUERIES, 5)
    for number, (status, rows) in enumerate(answers):
        k = 5 if number == 0 else 3 + (number - 1) % 2
        assert status == 200 and [row["id"] for row in rows] == ids[number, :k].tolist()


def test_a_search_that_fails_says_why_and_the_next_one_is_answered(folder: Path, tmp_path: Path):
    copied = write_folder(tmp_path / "c", ROWS)
    index = ExactIndex(EmbeddingFolder(copied))
    with serving({"tiny": index}) as address:
        file = copied / "img_emb/img_emb_0.npy"
        whole = file.read_bytes()
        file.write_bytes(whole[:1000])
        status, answer = ask(address, "/knn-service", question())
        assert status == 500 and "shorter" in answer["message"]
        file.write_bytes(whole)
        assert ask(address, "/knn-service", question())[0] == 200


def test_a_queue_that_is_full_refuses():
    async def run() -> list[Any]:
        batcher: Batcher[int, int] = Batcher(lambda given: [2 * one for one in given], 3, 4)
        asked = [asyncio.create_task(batcher.ask(number)) for number in range(6)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        batcher.close()
        return found

    found = asyncio.run(run())
    assert found[:4] == [0, 2, 4, 6] and all(isinstance(one, Overloaded) for one in found[4:])


def test_texts_and_images_are_embedded_by_the_clip_that_is_named(tmp_path: Path):
    from audit.commands.index_serve import _encoder
    from audit.retrieval.embed import Encoder

    clip = make_clip(tmp_path / "clip")
    encoder = Encoder(str(clip))
    wide = encoder.texts(["a doctor"]).shape[1]
    rows = vectors(50, wide)
    picture = Image.effect_noise((64, 64), 80).convert("RGB")
    rows[7] = encoder.texts(["a portrait of a doctor"])[0]
    rows[9] = encoder.images([encoder.preprocess(picture)])[0]
    index = open_index(write_folder(tmp_path / "e", rows))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    with serving({"tiny": index}, encode=_encoder(str(clip), None)) as address:
        given = question(embedding_input="absent", text="a portrait of a doctor")
        _, found = ask(address, "/knn-service", given)
        assert found[0]["id"] == 7 and found[0]["similarity"] > 0.999
        encoded = base64.b64encode(buffer.getvalue()).decode()
        _, found = ask(address, "/knn-service", question(embedding_input="absent", image=encoded))
        assert found[0]["id"] == 9 and found[0]["similarity"] > 0.999
        for wrong, said in {"%%": "not base64", "AAAA": "not a PNG, JPEG or WebP"}.items():
            status, answer = ask(
                address, "/knn-service", question(embedding_input="absent", image=wrong)
            )
            assert status == 400 and said in answer["message"]


def test_metadata_too_large_for_memory_is_read_from_the_index(folder: Path):
    index = open_index(folder)
    ids = [150, 3, 79, 80, 3]
    assert Rows(index, most=0).documents(ids) == Rows(index).documents(ids)
    assert Rows(index).documents([]) == []


def test_metadata_of_every_kind_becomes_json():
    row = {
        "time": np.datetime64("2024-08-30").item(),
        "hash": b"\xff",
        "score": np.float32("nan"),
        "list": np.array([1.5, float("inf")]),
        "inner": {"a": [1, None]},
    }
    assert as_json(np.float64("nan")) == b"null" and json.loads(as_json(row)) == {
        "time": "2024-08-30",
        "hash": "\ufffd",
        "score": None,
        "list": [1.5, None],
        "inner": {"a": [1, None]},
    }


def test_the_command_serves_embeddings_without_torch(folder: Path):
    code = (
        "import sys\n"
        "from audit.commands.index import index\n"
        "try:\n"
        f"    index.main(['serve', 'mine={folder}', '--port', '0'], standalone_mode=False)\n"
        "finally:\n"
        "    print('torch' in sys.modules)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.search(r"mine: http://127.0.0.1:(\d+)/knn-service", line)
        assert match, line
        address = ("127.0.0.1", int(match[1]))
        status, rows = ask(address, "/knn-service", question(indice_name="mine"))
        assert status == 200
        assert [row["id"] for row in rows] == nearest(ROWS, QUERIES[:1], 5)[0][0].tolist()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20)[0].strip() == "False"
    finally:
        process.kill()
        process.wait()
