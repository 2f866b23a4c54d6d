"""A vision-language model that answers yes, no or unsure, behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from PIL import Image

from audit.backends.http import (
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
from audit.backends.openai_images import ADDRESS, read_key
from audit.errors import AuditError, Incomplete
from audit.plugins import did_you_mean

from .vlm_answers import NO, WORDS, YES, probabilities, read_answer

WANTED = ADDRESS | {"gets": "the key and the images", "allow": "set insecure: true"}
REFUSED, FAILED = "refused", "failed"
"""What is no answer: the server's own filter stopped the request; nothing usable came."""
CONSTRAINTS = ("json_schema", "choice", "none")
LONGEST = 4000


@dataclass(frozen=True)
class Judgement:
    """What came of one image.

    Attributes:
        answer: ``yes``, ``no``, ``undetermined``, ``refused`` or ``failed``.
        likely: the probabilities of the first three, where the server gave them.
        raw: the model's own text, empty where there is none.
        error: why there is no answer.
        attempts: requests made.
    """

    answer: str
    raw: str = ""
    error: str = ""
    attempts: int = 1
    likely: Mapping[str, float] | None = None

    @property
    def yes(self) -> float | None:
        """P(yes) / (P(yes) + P(no)), or the answer as 1 or 0 where no probabilities are given;
        ``None`` for every other answer: an unsure judge's image is not scored."""
        if self.answer in (YES, NO) and self.likely:
            return self.likely[YES] / (self.likely[YES] + self.likely[NO])
        return {NO: 0.0, YES: 1.0}.get(self.answer)


@dataclass(frozen=True)
class Options:
    """How a judge is reached and asked, checked.

    Spec: ``detectors: {NAME: {…}}``::

        model: openai:http://127.0.0.1:8000/v1#my-vlm
        constrain: json_schema     # choice: vLLM's structured_outputs; none: the words alone
        top_logprobs: 20           # tokens whose probabilities are asked for; 0: none
        budget: 1000               # requests, retries included, of one run of the command
        side: 768                  # longer side in pixels that is sent, as PNG

    and `concurrency`, `retries`, `requests_per_minute`, `connect_timeout`, `read_timeout`,
    `total_timeout`, `backoff_seconds`, `key_env`, `insecure` as of the backend
    :class:`audit.backends.openai_images.OpenAIImages`. Temperature is 0; a server may still
    answer otherwise another time.
    """

    model: str
    constrain: str = "json_schema"
    top_logprobs: int = 20
    concurrency: int = 4
    retries: int = 3
    budget: int = 1000
    side: int = 768
    requests_per_minute: float = 0.0
    backoff_seconds: float = 1.0
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    total_timeout: float = 120.0
    key_env: str = "OPENAI_API_KEY"
    insecure: bool = False

    @classmethod
    def read(cls, name: str, given: Mapping[str, Any], others: Sequence[str] = ()) -> Options:
        """Options of a detector.

        Args:
            others: options that the detector has beside these, for the suggestion.

        Raises:
            AuditError: an option is unknown or no such value.
        """
        fields = cls.__dataclass_fields__
        for key, value in given.items():
            if key not in fields:
                known = did_you_mean(key, (*fields, *others))
                raise AuditError(f"{name}: unknown option '{key}'{known}")
            kind = fields[key].type
            kinds: dict[str, Any] = {"int": int, "float": (int, float), "bool": bool}
            right = kinds.get(str(kind), str)
            if not isinstance(value, right) or (isinstance(value, bool) and kind != "bool"):
                raise AuditError(f"{name}: {key} must be a {kind}, not {value!r}")
            if kind in ("int", "float") and value < (
                1 if kind == "int" and key not in ("retries", "top_logprobs") else 0
            ):
                raise AuditError(f"{name}: {key} is too small: {value!r}")
        if given.get("constrain", "json_schema") not in CONSTRAINTS:
            raise AuditError(f"{name}: constrain is one of {', '.join(CONSTRAINTS)}")
        return cls(**given)


class Judge:
    """The client of a judge: one yes-no question an image; the judge may say that it cannot tell.

    Args:
        name: the detector's, which messages begin with.

    Raises:
        AuditError: the address or the model cannot be used.
    """

    def __init__(self, name: str, options: Options) -> None:
        self._name, self._options = name, options
        address, _, self._model = options.model.removeprefix("openai:").partition("#")
        self._base = checked_url(address.rstrip("/"), options.insecure, **WANTED)
        if not self._model:
            raise AuditError(f"{name}: which model of {self._base.hostname}? openai:URL#MODEL")
        self._url = self._base._replace(path=self._base.path + "/chat/completions")
        self._key = read_key(options.key_env)
        o = options
        self._limits = Limits(o.connect_timeout, o.read_timeout, o.total_timeout, 2**20)
        self._rate = RateLimit(o.requests_per_minute)
        self._left, self._lock = o.budget, threading.Lock()
        # Emptied by the first refusal: not every server, nor every model of one, has them.
        self._logprobs = (
            {"logprobs": True, "top_logprobs": o.top_logprobs} if o.top_logprobs else {}
        )

    def describe(self) -> dict[str, Any]:
        """What a detector says of its judge. The key is nowhere in it."""
        return {
            "url": self._base.geturl(),
            "server_model": self._model,
            "constrain": self._options.constrain,
            "top_logprobs": self._options.top_logprobs,
            "side": self._options.side,
            "provenance": "reported",
            "deterministic": False,
            "weights": {},
            "known_error": None,
        }

    def ask(
        self, instruction: str, subjects: Sequence[str], images: Sequence[Image.Image]
    ) -> list[Judgement]:
        """What the judge says of each image.

        Args:
            instruction: the question, the same for all.
            subjects: for each image what the question is about: a policy, a caption.

        Raises:
            Incomplete: the server cannot be reached, or the budget is spent.
            AuditError: the key or the model is refused, or the server does not know the
                constraint.
        """
        if len(images) > self._left:
            raise self._spent()  # before half a batch is paid for
        texts = [f"{instruction} {self._form}\n\n{subject}" for subject in subjects]
        with ThreadPoolExecutor(min(self._options.concurrency, len(images))) as pool:
            found = list(pool.map(self._judge, texts, images))
        silent = [one for one in found if one.error.startswith("no answer")]
        if silent and len(silent) == len(found):
            # One image that a server cannot digest fails; a server that digests none is down.
            raise Incomplete(
                f"{self._name}: no answer from {self._base.netloc} ({silent[0].error}); the same "
                "command goes on from here"
            )
        return found

    @property
    def _form(self) -> str:
        if self._options.constrain == "json_schema":
            return 'Answer as JSON: {"answer": "yes" | "no" | "unsure"}.'
        return "Answer with one word: yes, no or unsure."

    def _spent(self) -> Incomplete:
        return Incomplete(
            f"{self._name}: the budget of {self._options.budget} requests is spent; the same "
            "command goes on with as many more, or raise 'budget'"
        )

    def _judge(self, text: str, image: Image.Image) -> Judgement:
        body = self._body(text, image)
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        attempts = retries = 0
        while True:
            self._rate.take()
            with self._lock:
                if not self._left:
                    raise self._spent()
                self._left -= 1
            attempts, pause, logprobs = attempts + 1, 0.0, self._logprobs
            try:
                data = json.dumps(body | logprobs).encode()
                reply = send("POST", self._url, headers, self._limits, data)
            except TooLarge as error:
                return Judgement(FAILED, error=str(error), attempts=attempts)
            except Unanswered as error:
                problem = str(error)
            else:
                if reply.status == 200:
                    return self._read(reply, attempts)
                if logprobs and reply.status in (400, 422) and b"logprobs" in reply.body:
                    self._logprobs = {}
                    continue
                if reply.status not in RETRIED:
                    return self._failure(reply, attempts)
                problem, pause = f"HTTP {reply.status}", retry_after(reply.headers)
            if retries == self._options.retries:
                return Judgement(FAILED, error=f"no answer: {problem}", attempts=attempts)
            time.sleep(max(pause, backoff(retries, self._options.backoff_seconds)))
            retries += 1

    def _body(self, text: str, image: Image.Image) -> dict[str, Any]:
        small = image.convert("RGB")
        small.thumbnail((self._options.side, self._options.side))
        buffer = io.BytesIO()
        small.save(buffer, "PNG")
        link = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
        content = [
            {"type": "text", "text": text},
            {"type": "image_url", "image_url": {"url": link}},
        ]
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": 64,
        }
        if self._options.constrain == "json_schema":
            schema = {
                "type": "object",
                "properties": {"answer": {"type": "string", "enum": list(WORDS)}},
                "required": ["answer"],
                "additionalProperties": False,
            }
            named = {"name": "judgement", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        elif self._options.constrain == "choice":
            body["structured_outputs"] = {"choice": list(WORDS)}
        return body

    def _read(self, reply: Reply, attempts: int) -> Judgement:
        try:
            choice = json.loads(reply.body)["choices"][0]
            message = choice["message"]
            text = message.get("content")
            stopped = choice.get("finish_reason") == "content_filter" or message.get("refusal")
            likely = probabilities(choice.get("logprobs"))
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            return Judgement(FAILED, error="the answer is no chat completion", attempts=attempts)
        raw = self._clean(text) if isinstance(text, str) else ""
        if stopped:
            return Judgement(REFUSED, raw, "the server's own filter refused", attempts)
        answer = read_answer(raw, self._options.constrain)
        return Judgement(answer, raw, attempts=attempts, likely=likely)

    def _failure(self, reply: Reply, attempts: int) -> Judgement:
        said = " ".join(self._clean(reply.body[:2000].decode("utf-8", "replace")).split())[:200]
        host = self._base.hostname
        if reply.status in (401, 403):
            raise AuditError(
                f"{self._name}: {host} refuses the key in {self._options.key_env}: {said}"
            )
        if reply.status in (404, 405):
            raise AuditError(f"{self._name}: {host} knows no model '{self._model}': {said}")
        if reply.status in (400, 422) and (
            "response_format" in said or "structured_outputs" in said
        ):
            raise AuditError(
                f"{self._name}: {host} does not know the constraint '{self._options.constrain}'; "
                f"choose another of {', '.join(CONSTRAINTS)}: {said}"
            )
        answer = REFUSED if "content_policy" in said or "content_filter" in said else FAILED
        return Judgement(answer, error=f"HTTP {reply.status}: {said}", attempts=attempts)

    def _clean(self, text: str) -> str:
        """Without the key, which servers have been seen to repeat, and as UTF-8 can hold it."""
        text = text.encode("utf-8", "replace").decode()
        return (text.replace(self._key, "[key]") if self._key else text)[:LONGEST]


def columns(found: Sequence[Judgement], yes: str = YES, no: str = NO) -> dict[str, list[Any]]:
    """A detector's columns of judgements: the score, `p_yes`, `p_no`, `p_undetermined`, `answer`,
    `raw`, `error`, `attempts`.

    Args:
        yes, no: what the detector calls these answers; the score has the name of `yes`.
    """
    said = {YES: yes, NO: no}
    return {
        yes: [one.yes for one in found],
        **{
            f"p_{said.get(answer, answer)}": [
                one.likely[answer] if one.likely else None for one in found
            ]
            for answer in WORDS.values()
        },
        "answer": [said.get(one.answer, one.answer) for one in found],
        "raw": [one.raw for one in found],
        "error": [one.error for one in found],
        "attempts": [one.attempts for one in found],
    }
