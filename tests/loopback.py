"""The frame of the test servers: on loopback, in a thread, and badly behaved when a test asks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar


class Server(ThreadingHTTPServer):
    """Takes a free port.

    Attributes:
        seen: the requests so far.
        busy, most_busy: requests under way at once, for handlers that count them.
        released: set when the test ends; whoever makes a client wait waits for it.
    """

    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.seen: list[dict[str, Any]] = []
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what the tests want."""


class Handler(BaseHTTPRequestHandler):
    """Answers, and the misbehaviours that all servers have in common."""

    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, *args: Any) -> None:
        pass

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def wait(self, seconds: float = 10) -> None:
        """Say nothing."""
        self.server.released.wait(seconds)

    def drop(self) -> None:
        """Hang up without an answer."""
        self.close_connection = True

    def cut(self, whole: bytes) -> None:
        """Declare an answer and send half of it."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(whole)))
        self.end_headers()
        self.wfile.write(whole[: len(whole) // 2])
        self.close_connection = True

    def flood(self, declared: bool) -> None:
        """An answer of a tebibyte that says so, or one without an end that does not."""
        self.send_response(200)
        if declared:
            self.send_header("Content-Length", str(2**40))
        else:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for _ in range(1000):
            self.wfile.write(b"10000\r\n" + b" " * 2**16 + b"\r\n")

    def trickle(self, headers: bool = False) -> None:
        """A byte now and then, of the body or of the headers, each within the read timeout."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        if not headers:
            self.wfile.write(b"Content-Length: 10000\r\n\r\n")
        for _ in range(200):
            self.wfile.write(b"x")
            self.wfile.flush()
            if self.server.released.wait(0.05):
                return


Running = TypeVar("Running", bound=Server)


@contextmanager
def serving(server: Running) -> Iterator[Running]:
    """`server` in a thread, stopped at the end."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()
