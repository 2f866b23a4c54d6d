"""Servers that speak OpenAI's images protocol: hosted models, and local servers of open ones.

Protocol: ``POST {URL}/images/generations`` of the OpenAI API reference, ``n = 1``, the image as
base64 in the answer. What a server does inside cannot be seen from here: it may rewrite prompts,
ignore seeds and change without notice. The record holds what it says of itself.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from audit.errors import AuditError, Incomplete
from audit.inputs import Inputs
from audit.plan import Request

from .base import Result
from .http import (
    RETRIED,
    Limits,
    RateLimit,
    Reply,
    TooLarge,
    Unanswered,
    backoff,
    checked_url,
    retry_after,
    send,
)
from .pictures import decode, deliver

EXTRAS = ("seed", "num_inference_steps", "guidance_scale", "negative_prompt")
"""Fields beyond the protocol that servers of open models take."""
REFUSALS = frozenset({"content_policy_violation", "moderation_blocked", "content_filter"})
"""Error codes of a request that the server's own filter stopped."""
UNKNOWN = re.compile(
    "unknown|unrecogni[sz]ed|unexpected|unsupported|extra|additional|"
    "not (permitted|allowed|supported)",
    re.IGNORECASE,
)
"""How servers say that they do not know a field, as against a value that they do not like."""
OURS = frozenset({"model", "prompt", "n", "size", "response_format", *EXTRAS})
LINE = 300
ADDRESS = {
    "like": "an OpenAI-compatible server is openai:URL#MODEL, such as "
    "openai:http://127.0.0.1:8000/v1#my-model",
    "instead": "put the key into the environment variable OPENAI_API_KEY",
    "gets": "the key and the prompts",
    "allow": "say --option insecure=true",
}


class OpenAIImages:
    """An OpenAI-compatible image server, ``openai:URL#MODEL``.

    Args:
        model: such as ``openai:http://127.0.0.1:8000/v1#my-model``.
        device, dtype: of no use here; the server decides.
        extras: send seed, num_inference_steps, guidance_scale and negative_prompt. The protocol
            does not know these fields and many servers refuse them.
        fields: further fields of every request, such as ``{quality: low}``.
        concurrency: requests under way at once.
        retries: further attempts after an answer that may pass, or none.
        backoff_seconds: base of the exponential backoff.
        requests_per_minute: 0: no limit.
        connect_timeout, read_timeout, total_timeout: in seconds, of one attempt.
        max_bytes: of one answer.
        key_env: the environment variable that holds the key.
        insecure: allow plain http to another machine.

    Raises:
        AuditError: the address or an option cannot be used.
    """

    harmless_options = frozenset(
        {
            "concurrency",
            "retries",
            "backoff_seconds",
            "requests_per_minute",
            "connect_timeout",
            "read_timeout",
            "total_timeout",
            "max_bytes",
            "key_env",
        }
    )
    """Options that may differ when a run is taken up again."""

    def __init__(
        self,
        model: str | Path,
        device: str = "auto",
        dtype: str = "float32",
        *,
        extras: bool = False,
        fields: Mapping[str, Any] | None = None,
        concurrency: int = 4,
        retries: int = 5,
        backoff_seconds: float = 1.0,
        requests_per_minute: float = 0.0,
        connect_timeout: float = 10.0,
        read_timeout: float = 120.0,
        total_timeout: float = 300.0,
        max_bytes: int = 64 * 2**20,
        key_env: str = "OPENAI_API_KEY",
        insecure: bool = False,
    ) -> None:
        address, _, self._model = str(model).removeprefix("openai:").partition("#")
        self._base = checked_url(address.rstrip("/"), insecure, **ADDRESS)
        if not self._model:
            raise AuditError(
                f"which model of {self._base.hostname}? Put its name behind the address: "
                "openai:URL#MODEL"
            )
        self._url = self._base._replace(path=self._base.path + "/images/generations")
        for name, value, least in (
            ("concurrency", concurrency, 1),
            ("retries", retries, 0),
            ("backoff_seconds", backoff_seconds, 0),
            ("requests_per_minute", requests_per_minute, 0),
            ("connect_timeout", connect_timeout, 0.001),
            ("read_timeout", read_timeout, 0.001),
            ("total_timeout", total_timeout, 0.001),
            ("max_bytes", max_bytes, 1),
        ):
            whole = name in ("concurrency", "retries", "max_bytes")
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                raise AuditError(f"option {name} must be a number, not {value!r}")
            if value < least:
                raise AuditError(f"option {name} must be at least {least:g}, not {value!r}")
        self._fields = dict(fields or {})
        if taken := sorted(OURS & set(self._fields)):
            raise AuditError(f"option fields may not set {taken[0]}: the request decides it")
        self._key_env = key_env
        self._key = read_key(key_env)
        self._extras = bool(extras)
        self._concurrency, self._retries, self._backoff = concurrency, retries, backoff_seconds
        self._limits = Limits(connect_timeout, read_timeout, total_timeout, max_bytes)
        self._stop = threading.Event()
        self._rate = RateLimit(requests_per_minute, self._stop.wait)
        self._refused: set[str] = set()  # optional fields that this server does not take
        self.inputs = Inputs()
        self.model_path: Path | None = None
        self.sampler: Mapping[str, Any] = {
            # 0: not asked, the server's own.
            "steps": 0,
            "guidance": 0.0,
            "height": 1024,
            "width": 1024,
        }

    def describe(self) -> Mapping[str, Any]:
        """See :class:`audit.backends.Backend`. The key is nowhere in it."""
        return {
            "backend": "openai-images",
            "mode": "server",
            "url": self._base.geturl(),
            "server_model": self._model,
            "key_variable": self._key_env,
            "extras": self._extras,
            "fields": self._fields,
            "provenance": "reported",
            "deterministic": False,
            "note": "The server reports what it is; its weights, its seeds and its filters cannot "
            "be checked, and the same request may give another image.",
            "weights": {},
        }

    def check(self, request: Request) -> None:
        """Whether a server can be asked for this.

        Raises:
            AuditError: it starts from a picture, or names a scheduler.
        """
        if request.init_image or request.mask or request.depth:
            raise AuditError(
                "the backend 'openai-images' makes images from text only: leave init_image, "
                "mask and depth out"
            )
        if request.scheduler != "model":
            raise AuditError("a server chooses its own scheduler: leave --scheduler out")

    def generate(self, requests: Sequence[Request], batch_size: int) -> list[Result]:
        """See :class:`audit.backends.Backend`. Nothing is padded.

        Telemetry, a column each:
            seconds: of the attempt that was answered.
            attempts: made for this image.
            fields_sent: the fields of the request's body.
            dropped_arguments: what was asked and not sent.
            revised_prompt: the prompt that the server says it used instead.
            server_model, server_created, system_fingerprint: what it says of itself.
            tokens_cut: null; a server does not tell.

        Raises:
            Incomplete: the server cannot be reached or stays overloaded.
            AuditError: it refuses the key or the model, redirects, or answers with links.
        """
        for request in requests:
            self.check(request)
        self._stop.clear()
        with ThreadPoolExecutor(min(self._concurrency, len(requests))) as pool:
            waiting = [pool.submit(self._one, request) for request in requests]
            try:
                wait(waiting)
            finally:
                self._stop.set()  # interrupted: nobody begins another attempt
        errors = [future.exception() for future in waiting]
        for error in errors:
            if error is not None and not isinstance(error, _Stopped):
                raise error
        results = [future.result() for future in waiting]
        broken = [result for result in results if isinstance(result, _Broken)]
        if broken and len(broken) == len(results):
            # One prompt that a server cannot digest fails; a server that digests none is down.
            raise self._incomplete(broken[0].error)
        return [
            Result(None, "failed", result.error, result.telemetry)
            if isinstance(result, _Broken)
            else result
            for result in results
        ]

    def _one(self, request: Request) -> Result:
        try:
            return self._attempts(request)
        except BaseException:
            self._stop.set()  # what ends the batch ends it for the others
            raise

    def _attempts(self, request: Request) -> Result:
        attempt = 0
        while True:
            body, dropped = self._body(request)
            telemetry: dict[str, Any] = {
                "seconds": None,
                "attempts": attempt + 1,
                "fields_sent": ", ".join(sorted(body)),
                "dropped_arguments": ", ".join(dropped),
                "revised_prompt": None,
                "server_model": None,
                "server_created": None,
                "system_fingerprint": None,
                "tokens_cut": None,
            }
            self._rate.take()
            if self._stop.is_set():
                raise _Stopped
            started = time.monotonic()
            pause, problem, status = 0.0, "", 0
            try:
                data = json.dumps(body).encode()
                reply = send("POST", self._url, self._headers(), self._limits, data)
            except Unanswered as error:
                problem = str(error)
            except TooLarge as error:
                return Result(None, "failed", str(error), telemetry)
            else:
                telemetry["seconds"] = time.monotonic() - started
                status = reply.status
                if status == 200:
                    return self._result(reply, request, telemetry)
                if refused := self._unknown(reply, body):
                    self._refused |= refused  # once more without; the body only ever shrinks
                    attempt += 1
                    continue
                if status not in RETRIED or _error(reply).get("code") == "insufficient_quota":
                    return self._failure(reply, telemetry)
                problem = f"HTTP {status}: {self._line(_message(reply))}"
                pause = retry_after(reply.headers)
            if attempt >= self._retries:
                if status == 500:
                    return _Broken(None, "failed", problem, telemetry)
                raise self._incomplete(problem)
            self._stop.wait(max(pause, backoff(attempt, self._backoff)))
            attempt += 1

    def _body(self, request: Request) -> tuple[dict[str, Any], list[str]]:
        """The JSON to send, and the names of what was asked and is not sent."""
        asked: dict[str, Any] = {"seed": request.seed}
        if request.steps:
            asked["num_inference_steps"] = request.steps
        if request.guidance:
            asked["guidance_scale"] = request.guidance
        if request.negative_prompt:
            asked["negative_prompt"] = request.negative_prompt
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": request.prompt,
            "n": 1,
            "size": f"{request.width}x{request.height}",
            **self._fields,
        }
        optional = {"response_format": "b64_json"} | (asked if self._extras else {})
        sent = {name: value for name, value in optional.items() if name not in self._refused}
        dropped = sorted(name for name in asked if name not in sent)
        if request.eta:
            dropped.append("eta")
        return body | sent, dropped

    def _unknown(self, reply: Reply, body: Mapping[str, Any]) -> set[str]:
        """The optional fields to leave out: all extras, or the format, whichever is named."""
        said = reply.body[:10_000].decode("utf-8", "replace")
        if reply.status not in (400, 422) or _refused(reply) or not UNKNOWN.search(said):
            return set()
        named = {
            name
            for name in (*EXTRAS, "response_format")
            if name in body and re.search(rf"\b{name}\b", said)
        }
        return named | (set(EXTRAS) if named & set(EXTRAS) else set())

    def _headers(self) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",  # a limit on bytes is then a limit on memory
        }
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        return headers

    def _result(self, reply: Reply, request: Request, telemetry: dict[str, Any]) -> Result:
        try:
            answer = json.loads(reply.body)
            item = answer["data"][0]
            encoded, link = item.get("b64_json"), item.get("url")
        except (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError):
            return Result(None, "failed", "the answer is not JSON with data[0].b64_json", telemetry)
        if not isinstance(encoded, str) or not encoded:
            if link:
                raise AuditError(
                    f"{self._base.hostname} answers with a link, and links are not fetched; the "
                    "server must honour response_format b64_json"
                )
            return Result(None, "failed", "the answer holds no image (b64_json)", telemetry)
        telemetry["revised_prompt"] = self._text(item.get("revised_prompt"), 4000)
        telemetry["server_model"] = self._text(answer.get("model"))
        telemetry["system_fingerprint"] = self._text(answer.get("system_fingerprint"))
        created = answer.get("created")
        if isinstance(created, int) and not isinstance(created, bool) and 0 <= created < 2**53:
            telemetry["server_created"] = created
        try:
            image = decode(base64.b64decode("".join(encoded.split()), validate=True))
        except binascii.Error:
            return Result(None, "failed", "the answer's b64_json is not base64", telemetry)
        except ValueError as error:
            return Result(None, "failed", f"the server sent {error}", telemetry)
        return Result(deliver(image, request), telemetry=telemetry)

    def _failure(self, reply: Reply, telemetry: dict[str, Any]) -> Result:
        error, host = _error(reply), self._base.hostname
        said = f"HTTP {reply.status}: {self._line(_message(reply))}"
        if _refused(reply):
            return Result(None, "blocked", self._line(_message(reply)), telemetry)
        if error.get("code") == "insufficient_quota":
            raise Incomplete(f"the quota at {host} is spent ({said}); the same command goes on")
        if reply.status in (401, 403):
            given = "the key in" if self._key else "a request without a key; set"
            raise AuditError(f"{host} refuses {given} {self._key_env} ({said})")
        if reply.status in (404, 405):
            raise AuditError(
                f"{host} knows no {self._url.path} or no model '{self._model}' ({said})"
            )
        if 300 <= reply.status < 400:
            target = self._line(reply.headers.get("location", "").split("?")[0]) or "nowhere"
            raise AuditError(
                f"{host} redirects to {target}; redirects are not followed, give the final address"
            )
        return Result(None, "failed", said, telemetry)

    def _incomplete(self, problem: str) -> Incomplete:
        return Incomplete(
            f"no images from {self._base.netloc} after {self._retries + 1} attempts ({problem}); "
            "the same command goes on from here"
        )

    def _line(self, text: str) -> str:
        """One line of what a server said; servers have been seen to repeat the key."""
        return " ".join(self._without_key(text).split())[:LINE]

    def _text(self, value: Any, longest: int = LINE) -> str | None:
        return self._without_key(value)[:longest] if isinstance(value, str) else None

    def _without_key(self, text: str) -> str:
        # JSON may hold half a surrogate pair, which no table and no terminal takes.
        text = text.encode("utf-8", "replace").decode()
        return text.replace(self._key, "[key]") if self._key else text


class _Stopped(Exception):
    """Another request of the batch met an error that ends it."""


class _Broken(Result):
    """A request that the server answered with 500 until the last attempt."""


def read_key(variable: str) -> str:
    if not isinstance(variable, str) or not re.fullmatch(r"[A-Za-z_]\w*", variable, re.ASCII):
        raise AuditError(
            "option key_env names an environment variable, such as OPENAI_API_KEY; "
            "it is not the key itself"
        )
    key = os.environ.get(variable, "").strip()
    if not key and variable != "OPENAI_API_KEY":
        raise AuditError(f"option key_env names {variable}, which is not set")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise AuditError(f"the key in {variable} holds characters that no key has")
    return key


def _error(reply: Reply) -> dict[str, Any]:
    try:
        error = json.loads(reply.body)["error"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return {}
    if not isinstance(error, dict):
        return {"message": str(error)}
    return {key: value for key, value in error.items() if isinstance(value, str)}


def _refused(reply: Reply) -> bool:
    """Whether the server's own filter stopped the request."""
    error = _error(reply)
    return bool({error.get("code"), error.get("type")} & REFUSALS)


def _message(reply: Reply) -> str:
    return _error(reply).get("message") or reply.body[:1000].decode("utf-8", "replace")
