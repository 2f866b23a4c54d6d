"""A server on loopback that speaks clip-retrieval's protocol, and misbehaves when a test asks."""

from __future__ import annotations

import json
import time
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests import loopback


class Server(loopback.Server):
    """Answers from `rows` as clip-retrieval does: inner products, and a bare 500 for every error.

    Attributes:
        script: misbehaviours of the next answers to ``/knn-service``; then it answers well.
        unsafe: ids that its safety model removes; ``None``: it loaded none and says nothing.
        noise: added to the similarities that it says.
        unsteady: each answer leaves another row out.
        seconds: that an answer takes.
        columns: further ones of each row's metadata.
    """

    def __init__(self, rows: NDArray[np.float32]) -> None:
        super().__init__(Handler)
        self.rows = rows
        self.script: list[str] = []
        self.unsafe: set[int] | None = None
        self.unsteady = False
        self.seconds = 0.0
        self.columns: dict[str, Any] = {}
        self.noise = np.zeros(len(rows))
        self.names: Any = ["tiny"]


class Handler(loopback.Handler):
    server: Server

    def do_GET(self) -> None:
        known = self.path == "/indices-list"
        self.answer(200 if known else 404, json.dumps(self.server.names).encode())

    def do_POST(self) -> None:
        body = json.loads(self.body())
        server = self.server
        behaviour = "fine"
        with server.lock:
            server.busy += 1
            server.most_busy = max(server.busy, server.most_busy)
            server.seen.append({"path": self.path, "time": time.monotonic(), **body})
            if self.path == "/knn-service" and server.script:
                behaviour = server.script.pop(0)
        try:
            if behaviour == "fine":
                time.sleep(server.seconds)
                document = getattr(self, self.path[1:].replace("-", "_"))(body)
        except Exception:
            behaviour = "status:500"
        with server.lock:
            server.busy -= 1
        if behaviour == "fine":
            self.answer(200, json.dumps(document).encode())
        else:
            getattr(self, behaviour.split(":")[0])(behaviour.partition(":")[2])

    def knn_service(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        server = self.server
        assert body["indice_name"] in server.names
        scores = server.rows @ np.array(body["embedding_input"], np.float32) + server.noise
        ids = np.argsort(-scores, kind="stable")[: body["num_result_ids"]].tolist()
        if body["use_safety_model"] and server.unsafe is not None:
            ids = [i for i in ids if i not in server.unsafe]
        if server.unsteady:
            ids.pop(len(server.seen) % len(ids))
        rows = [{"id": i, "similarity": float(scores[i])} for i in ids]
        for row in rows[: body["num_images"]]:
            row.update(self.row(row["id"]))
        return rows

    def metadata(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"id": i, "metadata": self.row(i)} for i in body["ids"]]

    def row(self, i: int) -> dict[str, Any]:
        self.server.rows[i]  # as there, a row beyond the end is an error
        row = {"caption": f"caption {i}", "image": "a picture in base64", "punsafe": i % 5 / 5}
        return row | self.server.columns

    # ---- misbehaviours ---------------------------------------------------------------------

    def status(self, code: str) -> None:
        self.answer(int(code), b'{"message": "Internal Server Error"}')

    def hang(self, _: str) -> None:
        self.wait()

    def dropped(self, _: str) -> None:
        self.drop()

    def truncated(self, _: str) -> None:
        self.cut(b'[{"id": 1, "similarity": 0.5}]')

    def huge(self, declared: str) -> None:
        self.flood(bool(declared))

    def drip(self, _: str) -> None:
        self.trickle()

    def text(self, text: str) -> None:
        self.answer(200, text.encode())

    def redirect(self, _: str) -> None:
        self.answer(307, b"", Location="http://198.51.100.7/elsewhere")


def serving(rows: NDArray[np.float32]) -> AbstractContextManager[Server]:
    """A server in a thread, stopped at the end."""
    return loopback.serving(Server(rows))
