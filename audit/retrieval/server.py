"""Our indices behind clip-retrieval's HTTP protocol.

``POST /knn-service``, ``POST /metadata``, ``GET /indices-list`` and ``GET /metrics`` as in
``clip_back.py`` of clip-retrieval 2.45.0. It differs where that one is unsafe or silent: only this
machine is answered, nothing is fetched, no picture is sent, and what is not done here is refused
with a reason (``{"message": …}``).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from audit.backends.http import is_loopback
from audit.errors import AuditError

from .answers import Answerer
from .asked import Refused, Wanted, listed_ids, parsed, wanted
from .base import Index
from .batching import Batcher, Overloaded

BODY_BYTES = 32 * 2**20
BODY_SECONDS = 30.0

Encode = Callable[[Sequence[Any]], NDArray[np.float32]]


class _Served:
    """An index and the queue of its searches."""

    def __init__(self, index: Index, encode: Encode | None) -> None:
        self.index = index
        self.answerer = Answerer(index, encode)
        self.searches: Batcher[Wanted, bytes] = Batcher(self.answerer.answers)
        self.rows = len(index)


class Service:
    """The application's routes.

    Args:
        indices: by the name that clients give.
        encode: texts and pictures to unit vectors; ``None``: only embeddings are answered.
    """

    def __init__(self, indices: Mapping[str, Index], encode: Encode | None = None) -> None:
        self._served = {name: _Served(index, encode) for name, index in indices.items()}
        self._clip = encode is not None
        self._requests: Counter[tuple[str, int]] = Counter()
        self._seconds: dict[str, float] = defaultdict(float)

    def routes(self) -> list[Route]:
        """For Starlette."""
        posts = {"/knn-service": self._knn, "/metadata": self._metadata}
        gets = {"/indices-list": self._list, "/metrics": self._metrics}
        return [
            *(
                Route(path, self._counted(path, work), methods=["POST"])
                for path, work in posts.items()
            ),
            *(
                Route(path, self._counted(path, work), methods=["GET"])
                for path, work in gets.items()
            ),
        ]

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Any) -> AsyncIterator[None]:
        """Ends the threads with the application."""
        try:
            yield
        finally:
            for served in self._served.values():
                served.searches.close()

    def _counted(self, path: str, work: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            begun = time.perf_counter()
            try:
                response: Response = await work(request)
            except Refused as refusal:
                response = _refusal(refusal.status, refusal.reason)
                if refusal.status in (408, 413):
                    response.headers["Connection"] = "close"  # the rest of the body is not read
            except Overloaded:
                response = _refusal(503, "too many searches wait; come again")
                response.headers["Retry-After"] = "1"
            except AuditError as error:
                response = _refusal(500, str(error))
            self._requests[path, response.status_code] += 1
            self._seconds[path] += time.perf_counter() - begun
            return response

        return answer

    async def _knn(self, request: Request) -> Response:
        document = parsed(await _body(request))
        served = self._of(document)
        question = wanted(
            document,
            served.index.dimension,
            modality=getattr(served.index, "modality", "image"),
            clip=self._clip,
            punsafe=served.answerer.says_unsafe,
            vectors=served.answerer.knows_vectors,
        )
        return Response(await served.searches.ask(question), media_type="application/json")

    async def _metadata(self, request: Request) -> Response:
        document = parsed(await _body(request))
        served = self._of(document)
        ids = listed_ids(document, served.rows)
        body = await asyncio.to_thread(served.answerer.metadata, ids)
        return Response(body, media_type="application/json")

    async def _list(self, _: Request) -> Response:
        return JSONResponse(list(self._served))

    async def _metrics(self, _: Request) -> Response:
        lines = ["# TYPE requests_total counter", "# TYPE request_seconds_total counter"]
        lines += ["# TYPE searches_total counter", "# TYPE searched_queries_total counter"]
        lines += ["# TYPE queries_waiting gauge"]
        lines += [
            f'requests_total{{path="{path}",status="{status}"}} {count}'
            for (path, status), count in sorted(self._requests.items())
        ]
        lines += [
            f'request_seconds_total{{path="{path}"}} {seconds:.6f}'
            for path, seconds in sorted(self._seconds.items())
        ]
        for name, served in self._served.items():
            label = name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
            lines.append(f'searches_total{{index="{label}"}} {served.searches.calls}')
            lines.append(f'searched_queries_total{{index="{label}"}} {served.searches.questions}')
            lines.append(f'queries_waiting{{index="{label}"}} {served.searches.waiting}')
        return PlainTextResponse("\n".join(lines) + "\n")

    def _of(self, document: Mapping[str, Any]) -> _Served:
        name = document.get("indice_name")
        if not isinstance(name, str) or name not in self._served:
            raise Refused(
                404, f"there is no index {name!r:.80}; there are: {', '.join(self._served)}"
            )
        return self._served[name]


class _OwnHost:
    """Answers requests to this machine's own names only, and none that a web page elsewhere sends.

    A page may point a name of its own at 127.0.0.1 (DNS rebinding); the Host header tells.
    """

    def __init__(self, app: ASGIApp, any_host: bool) -> None:
        self._app, self._any_host = app, any_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        answer = None
        if not self._any_host and not is_loopback(_hostname(host)):
            answer = _refusal(400, "this server answers to 127.0.0.1 and localhost only")
        elif origin is not None and urlsplit(origin).netloc != host:
            answer = _refusal(403, "this server does not answer web pages of another origin")
        return await (answer or self._app)(scope, receive, send)


def application(
    indices: Mapping[str, Index], encode: Encode | None = None, any_host: bool = False
) -> ASGIApp:
    """The server as an ASGI application.

    Args:
        indices: by the name that clients give.
        encode: texts and pictures to unit vectors; ``None``: only embeddings are answered.
        any_host: answer whatever name the machine is called by.
    """
    service = Service(indices, encode)

    async def http_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _refusal(error.status_code, error.detail)

    return Starlette(
        routes=service.routes(),
        middleware=[Middleware(_OwnHost, any_host=any_host)],
        exception_handlers={HTTPException: http_error},
        lifespan=service.lifespan,
    )


def serve(app: ASGIApp, listener: socket.socket) -> None:
    """Answer until Ctrl-C, on a socket of :func:`audit.listening.listen`."""
    with listener, contextlib.suppress(KeyboardInterrupt):
        uvicorn_server(app).run(sockets=[listener])


def uvicorn_server(app: ASGIApp) -> Any:
    """A uvicorn server that logs no request: queries are nobody's business."""
    import uvicorn

    from .wire import Bounded

    config = uvicorn.Config(
        app,
        http=Bounded,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
        limit_concurrency=1024,
        ws="none",
    )
    return uvicorn.Server(config)


async def _body(request: Request) -> bytes:
    pieces, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in request.stream():
                size += len(piece)
                if size > BODY_BYTES:
                    raise Refused(413, f"the body is larger than {BODY_BYTES:,} bytes")
                pieces.append(piece)
    except TimeoutError as error:
        raise Refused(408, f"the body did not come within {BODY_SECONDS:g} s") from error
    except ClientDisconnect as error:
        raise Refused(400, "the client hung up") from error
    return b"".join(pieces)


def _hostname(host: str) -> str:
    with contextlib.suppress(ValueError):
        return urlsplit(f"//{host}").hostname or ""
    return ""


def _refusal(status: int, reason: str) -> Response:
    return JSONResponse({"message": reason}, status)
