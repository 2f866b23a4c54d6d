"""clip-retrieval's HTTP protocol, from the asking side, with servers that may misbehave.

Protocol: ``clip_retrieval/clip_back.py`` of version 2.45.0. One query a request; every error of
the caller is a bare 500 there; what it cannot do it leaves out in silence.
"""

from __future__ import annotations

import itertools
import json
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeGuard, TypeVar

import numpy as np
from numpy.typing import NDArray

from audit.backends.http import (
    RETRIED,
    Limits,
    Reply,
    TooLarge,
    Unanswered,
    backoff,
    checked_url,
    retry_after,
    send,
)
from audit.errors import AuditError, Incomplete

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
ADDRESS = {
    "like": "a clip-retrieval server is http(s)://HOST:PORT#INDEX, such as "
    "http://127.0.0.1:1234#my-index",
    "instead": "leave them out",
    "gets": "the queries",
    "allow": "say insecure (--insecure)",
}
LONGEST_ID = 2**63 - 1
LINE = 300
HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json",
    "Accept-Encoding": "identity",  # a limit on bytes is then a limit on memory
}


class ServerUnreachable(Incomplete):
    """No answer, or only answers that may pass, until the last attempt."""


class ServerRefused(AuditError):
    """The server answered that it does not do this."""


class ServerAnswerInvalid(AuditError):
    """The answer is too large, or not what the protocol says."""


class FilterNotShown(AuditError):
    """A filter was asked for, and nothing shows that it is in force."""


class Server:
    """Requests to one server, with retries.

    Args:
        url: its address, without the name of an index.
        retries: further attempts where there was no whole answer, or one that may pass. A 500 is
            tried once more only: clip-retrieval says so whatever the caller did wrong.
        backoff_seconds: base of the exponential backoff.
        concurrency: requests under way at once.
        insecure: allow plain http to another machine, which sends the queries unencrypted.

    Raises:
        AuditError: the address cannot be used.
    """

    def __init__(
        self,
        url: str,
        limits: Limits,
        retries: int = 4,
        backoff_seconds: float = 0.5,
        concurrency: int = 4,
        insecure: bool = False,
    ) -> None:
        address = url.rstrip("/").removesuffix("/knn-service")
        self._url = checked_url(address, insecure, **ADDRESS)
        self._limits, self._retries, self._backoff = limits, retries, backoff_seconds
        self._concurrency = concurrency
        self._stop = threading.Event()

    @property
    def address(self) -> str:
        return self._url.geturl()

    def each(self, ask: Callable[[Asked], Answer], things: Sequence[Asked]) -> list[Answer]:
        """`ask` of each thing, `concurrency` at once, in their order; the first error ends all."""

        def one(thing: Asked) -> Answer:
            try:
                return ask(thing)
            except BaseException:
                self._stop.set()
                raise

        try:
            with ThreadPoolExecutor(self._concurrency) as pool:
                waiting = [pool.submit(one, thing) for thing in things]
                try:
                    wait(waiting)
                finally:
                    self._stop.set()  # interrupted: nobody begins another attempt
        finally:
            self._stop.clear()
        for future in waiting:
            error = future.exception()
            if error is not None and not isinstance(error, _Stopped):
                raise error
        return [future.result() for future in waiting]

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """What the server answers, as JSON.

        Raises:
            ServerUnreachable: no answer, or overload, until the last attempt.
            ServerRefused: it answers with an error.
            ServerAnswerInvalid: the answer is too large, or no JSON.
        """
        url = self._url._replace(path=self._url.path + path)
        data = json.dumps(body, allow_nan=False).encode()
        return self._repeated(path, lambda: send("POST", url, HEADERS, self._limits, data))

    def get(self, path: str) -> Any:
        """What the server answers to a GET, as JSON. Errors as of :meth:`post`."""
        url = self._url._replace(path=self._url.path + path)
        return self._repeated(path, lambda: send("GET", url, HEADERS, self._limits))

    def _repeated(self, path: str, ask: Callable[[], Reply]) -> Any:
        attempt = 0
        while True:
            if self._stop.is_set():
                raise _Stopped
            pause = 0.0
            try:
                reply = ask()
            except Unanswered as error:
                problem, last = str(error), attempt >= self._retries
            except TooLarge as error:
                raise ServerAnswerInvalid(f"{self.address}{path}: {error}") from error
            else:
                if reply.status == 200:
                    return self._document(path, reply)
                problem = f"HTTP {reply.status}: {_said(reply)}"
                if reply.status not in RETRIED or (reply.status == 500 and attempt):
                    raise self._refused(path, reply.status, problem)
                last, pause = attempt >= self._retries, retry_after(reply.headers)
                if last and reply.status == 500:
                    raise self._refused(path, 500, problem)
            if last:
                raise ServerUnreachable(
                    f"no answer from {self.address}{path} after {attempt + 1} attempts "
                    f"({problem}); the same command goes on from here"
                )
            self._stop.wait(max(pause, backoff(attempt, self._backoff)))
            attempt += 1

    def _document(self, path: str, reply: Reply) -> Any:
        try:
            return json.loads(reply.body)
        except (ValueError, RecursionError) as error:
            raise ServerAnswerInvalid(f"{self.address}{path} answers with no JSON") from error

    def _refused(self, path: str, status: int, problem: str) -> ServerRefused:
        hint = ""
        if status == 500:
            hint = (
                "; clip-retrieval answers so to every error of the caller: an unknown index, "
                "vectors of another dimension, a row that is not there"
            )
        elif 300 <= status < 400:
            hint = "; redirects are not followed, give the final address"
        return ServerRefused(f"{self.address}{path} refuses: {problem}{hint}")


class _Stopped(Exception):
    """Another request met an error that ends them all."""


def nearest(document: Any, k: int, where: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Ids and similarities of an answer of ``/knn-service``, checked; at most `k` each.

    Raises:
        ServerAnswerInvalid: it is not what the protocol says.
    """
    if not isinstance(document, list) or len(document) > k:
        what = f"{len(document)} rows" if isinstance(document, list) else "no list"
        raise ServerAnswerInvalid(f"{where} answers with {what} where at most {k} were asked for")
    ids: list[int] = []
    scores: list[float] = []
    for row in document:
        given = row if isinstance(row, dict) else {}
        found, score = given.get("id"), given.get("similarity")
        if not _is_id(found) or not _is_number(score):
            raise ServerAnswerInvalid(
                f"{where} answers with a row without a whole 'id' and a finite 'similarity'"
            )
        ids.append(found)
        scores.append(float(score))
    if len(set(ids)) < len(ids):
        raise ServerAnswerInvalid(f"{where} answers with one id twice")
    if any(later > former + 1e-3 for former, later in itertools.pairwise(scores)):
        raise ServerAnswerInvalid(
            f"{where} answers with similarities that rise from row to row: its index holds "
            "distances, not inner products"
        )
    return np.array(ids, dtype=np.int64), np.array(scores, dtype=np.float32)


def rows(document: Any, ids: Sequence[int], where: str) -> list[dict[str, Any]]:
    """The metadata in an answer of ``/metadata``, one row for each of `ids`, in their order.

    A picture that the server took from its disk (column ``image``) is thrown away unread.

    Raises:
        ServerAnswerInvalid: it is not what the protocol says.
    """
    fits = isinstance(document, list) and all(
        isinstance(row, dict) and isinstance(row.get("metadata"), dict) for row in document
    )
    if not fits or [row.get("id") for row in document] != list(ids):
        raise ServerAnswerInvalid(f"{where} does not answer with the {len(ids)} rows asked for")
    return [
        {name: value for name, value in row["metadata"].items() if name != "image"}
        for row in document
    ]


def _is_id(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LONGEST_ID


def _is_number(value: Any) -> TypeGuard[float]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) < 1e30 and math.isfinite(value)


def _said(reply: Reply) -> str:
    try:
        said = json.loads(reply.body)["message"]
    except (ValueError, RecursionError, KeyError, TypeError):
        said = reply.body[:LINE].decode("utf-8", "replace")
    return " ".join(str(said).split())[:LINE]
