"""HTTP/1.1 as uvicorn parses it with httptools, with a bound on what is no body."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

BESIDE_BYTES = 2**20
"""Of a request: its head, and what frames its body in chunks."""


class Bounded(HttpToolsProtocol):
    """Refuses a request whose head never ends: httptools keeps whatever comes."""

    _beside = 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._beside += len(data)
        if self._beside > BESIDE_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request is too large.")

    def on_message_begin(self) -> None:
        self._beside = 0
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        self._beside -= len(body)
        super().on_body(body)
