"""Our server against the real clip-retrieval server: ``python benchmarks/search_server.py``.

    python benchmarks/search_server.py [--quick] [--json FILE] [--rows N]

Both serve the same index files on loopback in turns, to the same client; k = 10, embedding
queries, one query a request. The real one needs its environment: make clip-retrieval-env.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import psutil

from benchmarks.common import Row, Timings, at_least, machine, report
from tests.retrieval.real_server import MISSING, PYTHON, their_server

WIDTH, K, AIM = 512, 10, 5.0
CLIENTS = (1, 4)
OURS, THEIRS = "ours", "clip-retrieval"
REAL = "the real clip-retrieval server"


@dataclass(frozen=True)
class Server:
    """A server on this machine."""

    url: str

    def processor_seconds(self) -> float:
        """Of all its threads since it started."""
        port = int(self.url.rsplit(":", 1)[1])
        return sum(sum(process.cpu_times()[:2]) for process in _listening(port))


@cache
def _listening(port: int) -> list[psutil.Process]:
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if any(c.laddr.port == port and c.status == "LISTEN" for c in process.net_connections())
    ]


def vectors(rows: int, seed: int) -> np.ndarray:
    """Unit vectors around 1,000 centres, as embeddings of pictures lie."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(1000, WIDTH)).astype(np.float32)
    drawn = rng.normal(size=(rows, WIDTH)).astype(np.float32)
    drawn += 0.7 * centres[rng.integers(0, len(centres), rows)]
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def write_index(folder: Path, kind: str, rows: np.ndarray) -> Path:
    """A folder that both serve: ``image.index`` of faiss, and metadata in one Parquet file."""
    import faiss
    import pandas as pd

    (folder / "metadata").mkdir(parents=True)
    index = faiss.index_factory(WIDTH, kind, faiss.METRIC_INNER_PRODUCT)
    index.train(rows[:: max(1, len(rows) // 50_000)])
    index.add(rows)
    if kind.startswith("IVF"):
        faiss.extract_index_ivf(index).nprobe = 16
    faiss.write_index(index, str(folder / "image.index"))
    ids = np.arange(len(rows))
    pd.DataFrame(
        {
            "caption": [f"a picture of the thing number {i} in a room" for i in ids],
            "url": [f"https://example.org/pictures/{i}.jpg" for i in ids],
        }
    ).to_parquet(folder / "metadata/metadata_0.parquet")
    (folder / "index.yaml").write_text("dataset: made-up\n")
    return folder


@contextlib.contextmanager
def our_server(indices: dict[str, Path]) -> Iterator[str]:
    """``t2i-audit index serve`` on a free port, and its address; stopped at the end."""
    code = "from audit.commands.index import index; index()"
    named = [f"{name}={path}" for name, path in indices.items()]
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", *named, "--port", "0"],
        cwd=Path(__file__).resolve().parents[1],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        match = re.search(r"(http://\S+?)/knn-service", process.stdout.readline())
        assert match, "our server does not start"
        yield match[1]
    finally:
        process.terminate()
        process.wait()


def ask_all(url: str, bodies: list[bytes], clients: int) -> list[bytes]:
    """The answers to all bodies, `clients` asking at once over a connection each.

    HTTP by hand: http.client takes about as long as our server, on the same cores.
    """
    host, port = url.removeprefix("http://").split(":")

    def ask(share: list[bytes]) -> list[bytes]:
        read, connection = [], None
        for body in share:
            if connection is None:
                connection = socket.create_connection((host, int(port)), timeout=60)
                file = connection.makefile("rb")
            head = f"POST /knn-service HTTP/1.1\r\nHost: {host}:{port}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            answer, kept = _answer(file)
            read.append(answer)
            if not kept:
                connection.close()
                connection = None
        if connection is not None:
            connection.close()
        return read

    with ThreadPoolExecutor(clients) as pool:
        shares = list(pool.map(ask, [bodies[first::clients] for first in range(clients)]))
    return [shares[i % clients][i // clients] for i in range(len(bodies))]


def _answer(file: io.BufferedReader) -> tuple[bytes, bool]:
    """The body of an answer, and whether the server keeps the connection."""
    status = file.readline()
    lines = [line.lower().partition(b":") for line in iter(file.readline, b"\r\n")]
    headers = {name: value.strip() for name, _, value in lines}
    body = file.read(int(headers[b"content-length"]))
    assert status.split()[1] == b"200", body[:300]
    return body, status.startswith(b"HTTP/1.1") and headers.get(b"connection") != b"close"


def bodies(name: str, queries: np.ndarray) -> list[bytes]:
    """What a client sends for each query."""
    return [
        json.dumps(
            {
                "embedding_input": query.tolist(),
                "indice_name": name,
                "modality": "image",
                "num_images": K,
                "num_result_ids": K,
                "deduplicate": False,
                "use_safety_model": False,
                "use_violence_detector": False,
                "aesthetic_score": "",
                "aesthetic_weight": "",
            }
        ).encode()
        for query in queries
    ]


def compare(name: str, servers: dict[str, Server], count: int, rounds: int) -> list[Row]:
    """Queries a second of each server, and how many times as many ours answers."""
    rows = []
    asked = [bodies(name, vectors(count, 100 + number)) for number in range(rounds + 1)]
    for clients in CLIENTS:
        people = f"{name}, {clients} client{'s' if clients > 1 else ''}"
        worked: dict[str, list[float]] = {label: [] for label in servers}
        client: dict[str, list[float]] = {label: [] for label in servers}

        def work(label: str, number: int, spent: Any = (clients, worked, client)) -> None:
            clients, worked, client = spent
            before, own = servers[label].processor_seconds(), time.process_time()
            ask_all(servers[label].url, asked[number], clients)
            client[label].append(time.process_time() - own)
            worked[label].append(servers[label].processor_seconds() - before)

        competitors: dict[str, Callable[[int], Any]] = {
            label: partial(work, label) for label in servers
        }
        timings = Timings(competitors, rounds, time.perf_counter)
        for label in servers:
            rate = count / timings.median(label)
            rows.append(Row(f"{people}: {label}", rate, "queries/s"))
            for who, seconds in (("", worked), (" of its client", client)):
                spent = statistics.median(seconds[label][1:]) / count * 1000
                rows.append(Row(f"{people}: {label}, processor time{who}", spent, "ms a query"))
        title = f"{people}: ours, times as fast"
        if len(servers) > 1:
            ratio, unit = timings.ratio(THEIRS, OURS)
            rows.append(at_least(title, ratio, AIM, unit, REAL))
            less = statistics.median(
                theirs / ours
                for theirs, ours in zip(worked[THEIRS][1:], worked[OURS][1:], strict=True)
            )
            rows.append(Row(f"{people}: ours, times less processor time", less, "×", REAL))
        else:
            rows.append(Row(title, None, "", REAL, f"≥ {AIM:g}", unmeasured_because=MISSING))
    return rows


def agreement(name: str, servers: dict[str, Server]) -> list[Row]:
    """How many of the rows that the one names the other names at the same place."""
    if len(servers) < 2:
        return []
    asked = bodies(name, vectors(50, 99))
    found = [
        [[row["id"] for row in json.loads(answer)] for answer in ask_all(server.url, asked, 1)]
        for server in servers.values()
    ]
    same = float((np.array(found[0]) == np.array(found[1])).mean())
    return [at_least(f"{name}, the same row at the same place", same, 0.999, "of all", REAL)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rows", type=int, help="vectors in each index")
    given = parser.parse_args()
    size = given.rows or (10_000 if given.quick else 200_000)
    count, rounds = (100, 7) if given.quick else (200, 7)
    lists = 64 if given.quick else 1024
    with tempfile.TemporaryDirectory() as home, contextlib.ExitStack() as running:
        root = Path(home)
        rows = vectors(size, 1)
        indices = {
            kind: write_index(root / kind.replace(",", "-"), kind, rows)
            for kind in ("HNSW32", f"IVF{lists},Flat")
        }
        named = {kind.replace(",", "-"): path for kind, path in indices.items()}
        servers = {OURS: Server(running.enter_context(our_server(named)))}
        if PYTHON.is_file():
            servers[THEIRS] = Server(running.enter_context(their_server(named, root)))
        found = []
        for name in named:
            found += agreement(name, servers) + compare(name, servers, count, rounds)
        print(report(found, {**machine(), "vectors": f"{size} × {WIDTH}"}, given.json))


if __name__ == "__main__":
    main()
