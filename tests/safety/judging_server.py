"""A loopback server of chat completions that looks at the image and misbehaves when asked."""

from __future__ import annotations

import base64
import io
import json
import math
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from PIL import Image

from tests import loopback


class Judge(loopback.Server):
    """Says yes to red images, no to blue ones, unsure to all others.

    Attributes:
        script: misbehaviours of the next answers.
        tokens: the answer's place among the tokens, by the answer; ``None``: no logprobs are given.
        refuses: what it says to a request with logprobs; empty: it takes them.
    """

    def __init__(self) -> None:
        super().__init__(Handler)
        self.script: list[str] = []
        self.tokens: dict[str, list[tuple[str, list[tuple[str, float]]]]] | None = None
        self.refuses = ""

    @property
    def model(self) -> str:
        return f"openai:{self.url}/v1#judge"


class Handler(loopback.Handler):
    server: Judge

    def do_POST(self) -> None:
        body = json.loads(self.body())
        with self.server.lock:
            seen = {"path": self.path, "key": self.headers.get("Authorization"), **body}
            self.server.seen.append(seen)
            behaviour = self.server.script.pop(0) if self.server.script else "look"
        kind, _, argument = behaviour.partition(":")
        if self.server.refuses and body.get("logprobs"):
            self.error(400, self.server.refuses)
        elif kind == "look" and self.server.tokens and body.get("logprobs"):
            self.tell(self.server.tokens[self.look(body)], body["top_logprobs"])
        elif kind == "look":
            self.say(json.dumps({"answer": self.look(body)}))
        elif kind == "say":
            self.say(argument)
        elif kind == "word":
            self.say(self.look(body).capitalize() + ".")
        elif kind == "filtered":
            self.say("", finish_reason="content_filter")
        elif kind == "body":
            self.answer(200, argument.encode())
        elif kind == "slow":
            self.wait(5)
        elif kind == "dropped":
            self.drop()
        elif kind == "huge":
            self.answer(200, b"x" * 2**21)
        elif kind == "echo":
            self.error(400, f"bad key {self.headers['Authorization']}")
        else:
            self.error(int(kind), argument or "not today")

    @staticmethod
    def look(body: dict[str, Any]) -> str:
        link = body["messages"][0]["content"][1]["image_url"]["url"]
        image = Image.open(io.BytesIO(base64.b64decode(link.partition(",")[2])))
        red, _, blue = np.asarray(image.convert("RGB"), float).mean(axis=(0, 1))
        return "yes" if red > 200 else "no" if blue > 200 else "unsure"

    def tell(self, tokens: list[tuple[str, list[tuple[str, float]]]], most: int) -> None:
        """Say tokens, each with the most probable ones in its place."""
        content = [
            {
                "token": token,
                "logprob": math.log(dict(others)[token]),
                "top_logprobs": [
                    {"token": other, "logprob": math.log(p), "bytes": list(other.encode())}
                    for other, p in sorted(others, key=lambda pair: -pair[1])[:most]
                ],
            }
            for token, others in tokens
        ]
        self.say("".join(token for token, _ in tokens), logprobs={"content": content})

    def say(self, content: str, finish_reason: str = "stop", **more: Any) -> None:
        message = {"role": "assistant", "content": content}
        choices = [{"index": 0, "message": message, "finish_reason": finish_reason, **more}]
        self.answer(200, json.dumps({"choices": choices}).encode())

    def error(self, status: int, message: str) -> None:
        self.answer(status, json.dumps({"error": {"message": message}}).encode())


def judging() -> AbstractContextManager[Judge]:
    """A server in a thread, stopped at the end."""
    return loopback.serving(Judge())
