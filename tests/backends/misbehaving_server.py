"""An image server on loopback that misbehaves on purpose, as often as a test asks."""

from __future__ import annotations

import base64
import email.utils
import hashlib
import io
import json
import time
from contextlib import AbstractContextManager
from typing import Any

from PIL import Image

from tests import loopback


def colour_of(prompt: str) -> tuple[int, int, int]:
    """What the well-behaved server paints for a prompt."""
    digest = hashlib.sha256(prompt.encode()).digest()
    return digest[0], digest[1], digest[2]


def encoded(image: Image.Image, form: str = "PNG") -> str:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return base64.b64encode(buffer.getvalue()).decode()


class Server(loopback.Server):
    """`script` maps a prompt to the misbehaviours of its next answers; then it answers well."""

    def __init__(self) -> None:
        super().__init__(Handler)
        self.script: dict[str, list[str]] = {}
        self.unknown: set[str] = set()

    @property
    def model(self) -> str:
        return f"openai:{self.url}/v1#tiny"


class Handler(loopback.Handler):
    server: Server

    def do_GET(self) -> None:
        self.server.seen.append({"method": "GET", "path": self.path})
        self.answer(200, b"never fetched")

    def do_POST(self) -> None:
        body = json.loads(self.body())
        server = self.server
        with server.lock:
            server.busy += 1
            server.most_busy = max(server.busy, server.most_busy)
            server.seen.append(
                {
                    "method": "POST",
                    "path": self.path,
                    "time": time.monotonic(),
                    "key": self.headers.get("Authorization"),
                    **body,
                }
            )
            left = server.script.get(body["prompt"]) or server.script.get("*") or []
            behaviour = left.pop(0) if left else "fine"
        try:
            unknown = sorted(server.unknown & set(body))
            if unknown:
                self.error(400, f"Unknown parameter: '{unknown[0]}'.", "unknown_parameter")
            else:
                getattr(self, behaviour.split(":")[0])(body, behaviour.partition(":")[2])
        finally:
            with server.lock:
                server.busy -= 1

    def error(self, status: int, message: str, code: str = "", **headers: str) -> None:
        error = {"message": message, "code": code, "type": "invalid_request_error"}
        self.answer(status, json.dumps({"error": error}).encode(), **headers)

    def document(self, body: dict[str, Any]) -> dict[str, Any]:
        wide, high = map(int, body["size"].split("x"))
        return {
            "created": 1_700_000_000,
            "model": "tiny-2",
            "system_fingerprint": "fp_1",
            "data": [
                {
                    "b64_json": encoded(Image.new("RGB", (wide, high), colour_of(body["prompt"]))),
                    "revised_prompt": f"a detailed {body['prompt']}",
                }
            ],
        }

    def data(self, **item: Any) -> None:
        self.answer(200, json.dumps({"created": 1, "data": [item]}).encode())

    # ---- behaviours ------------------------------------------------------------------------

    def fine(self, body: dict[str, Any], _: str) -> None:
        self.answer(200, json.dumps(self.document(body)).encode())

    def status(self, body: dict[str, Any], status: str) -> None:
        self.error(int(status), "not today")

    def later(self, body: dict[str, Any], seconds: str) -> None:
        self.error(429, "slow down", Retry_After=seconds)

    def later_date(self, body: dict[str, Any], seconds: str) -> None:
        then = email.utils.formatdate(time.time() + float(seconds), usegmt=True)
        self.error(429, "slow down", Retry_After=then)

    def quota(self, body: dict[str, Any], _: str) -> None:
        self.error(429, "You exceeded your current quota", "insufficient_quota")

    def policy(self, body: dict[str, Any], code: str) -> None:
        self.error(400, "Your request was rejected\nby our safety system.", code)

    def refuse(self, body: dict[str, Any], message: str) -> None:
        self.error(400, message or "Invalid size\n'1x1'.")

    def echo_key(self, body: dict[str, Any], status: str) -> None:
        self.error(int(status), f"Incorrect API key provided: {self.headers['Authorization']}")

    def slow(self, body: dict[str, Any], _: str) -> None:
        self.wait()

    def drip(self, body: dict[str, Any], part: str) -> None:
        self.trickle(headers=part != "body")

    def truncated(self, body: dict[str, Any], _: str) -> None:
        self.cut(json.dumps(self.document(body)).encode())

    def dropped(self, body: dict[str, Any], _: str) -> None:
        self.drop()

    def huge(self, body: dict[str, Any], declared: str) -> None:
        self.flood(bool(declared))

    def not_json(self, body: dict[str, Any], _: str) -> None:
        self.answer(200, b"<html>It works!</html>")

    def wrong_json(self, body: dict[str, Any], text: str) -> None:
        self.answer(200, text.encode())

    def not_base64(self, body: dict[str, Any], _: str) -> None:
        self.data(b64_json="%%%%")

    def not_an_image(self, body: dict[str, Any], _: str) -> None:
        self.data(b64_json=base64.b64encode(b"GIF89a plainly not").decode())

    def damaged_image(self, body: dict[str, Any], _: str) -> None:
        whole = base64.b64decode(encoded(Image.effect_noise((64, 64), 50).convert("RGB")))
        self.data(b64_json=base64.b64encode(whole[: len(whole) // 2]).decode())

    def gif(self, body: dict[str, Any], _: str) -> None:
        self.data(b64_json=encoded(Image.new("RGB", (8, 8)), "GIF"))

    def too_many_pixels(self, body: dict[str, Any], _: str) -> None:
        self.data(b64_json=encoded(Image.new("1", (8200, 8200))))

    def link(self, body: dict[str, Any], _: str) -> None:
        self.data(url=f"{self.server.url}/picture.png")

    def redirect(self, body: dict[str, Any], _: str) -> None:
        self.answer(307, b"", Location="http://198.51.100.7/elsewhere?token=secret")


def serving() -> AbstractContextManager[Server]:
    """A server in a thread, stopped at the end."""
    return loopback.serving(Server())
