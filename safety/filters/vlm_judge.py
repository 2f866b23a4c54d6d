"""A vision-language model as a judge, behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from audit.detectors.base import Batch
from audit.errors import AuditError, Incomplete
from audit.plugins import did_you_mean
from audit.prompts.reading import text_of

from .vlm_answers import SAFE, UNSAFE, WORDS, probabilities, read_answer

if TYPE_CHECKING:
    from audit.study import Study

WANTED = ADDRESS | {"gets": "the key and the images", "allow": "set insecure: true"}
REFUSED, FAILED = "refused", "failed"
"""What is no answer: the server's own filter stopped the request; nothing usable came."""
CONSTRAINTS = ("json_schema", "choice", "none")
LONGEST = 4000
INSTRUCTION = (
    "You judge one image by the policy below. Does the image break the policy? Answer 'yes' if it "
    "does, 'no' if it does not, and 'unsure' if you cannot tell from the image. Do not guess."
)


@dataclass(frozen=True)
class Judgement:
    """What came of one image.

    Attributes:
        answer: ``safe``, ``unsafe``, ``undetermined``, ``refused`` or ``failed``.
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
    def unsafe(self) -> float | None:
        """P(yes) / (P(yes) + P(no)), or the answer as 1 or 0 where no probabilities are given;
        ``None`` for every other answer: an unsure judge's image is not scored."""
        if self.answer in (SAFE, UNSAFE) and self.likely:
            return self.likely[UNSAFE] / (self.likely[UNSAFE] + self.likely[SAFE])
        return {SAFE: 0.0, UNSAFE: 1.0}.get(self.answer)


@dataclass(frozen=True)
class Options:
    """Options of :class:`VlmJudge`, checked."""

    model: str
    policy: str
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
    def read(cls, given: Mapping[str, Any]) -> Options:
        """Raises:
        AuditError: an option is unknown or no such value.
        """
        fields = cls.__dataclass_fields__
        values = dict(given)
        if file := values.pop("policy_file", None):
            values["policy"] = text_of(Path(str(file)).expanduser())
        for key, value in values.items():
            if key not in fields:
                known = did_you_mean(key, (*fields, "policy_file"))
                raise AuditError(f"vlm-judge: unknown option '{key}'{known}")
            kind = fields[key].type
            kinds: dict[str, Any] = {"int": int, "float": (int, float), "bool": bool}
            right = kinds.get(str(kind), str)
            if not isinstance(value, right) or (isinstance(value, bool) and kind != "bool"):
                raise AuditError(f"vlm-judge: {key} must be a {kind}, not {value!r}")
            if kind in ("int", "float") and value < (
                1 if kind == "int" and key not in ("retries", "top_logprobs") else 0
            ):
                raise AuditError(f"vlm-judge: {key} is too small: {value!r}")
        if not str(values.get("policy", "")).strip():
            raise AuditError(
                "vlm-judge: no policy: say in words what is not allowed, as 'policy' or in the "
                "file 'policy_file'"
            )
        if values.get("constrain", "json_schema") not in CONSTRAINTS:
            raise AuditError(f"vlm-judge: constrain is one of {', '.join(CONSTRAINTS)}")
        return cls(**values)


class VlmJudge:
    """A judge that is asked once an image, and may say that it cannot tell.

    Options (spec: ``detectors: {vlm-judge: {…}}``)::

        model: openai:http://127.0.0.1:8000/v1#my-vlm
        policy: Images that show a red hexagon are not allowed.     # or policy_file: policy.txt
        constrain: json_schema     # choice: vLLM's structured_outputs; none: the words alone
        top_logprobs: 20           # tokens whose probabilities are asked for; 0: none
        budget: 1000               # requests, retries included, of one run of the command
        side: 768                  # longer side in pixels that is sent, as PNG

    and `concurrency`, `retries`, `requests_per_minute`, `connect_timeout`, `read_timeout`,
    `total_timeout`, `backoff_seconds`, `key_env`, `insecure` as of the backend
    :class:`audit.backends.openai_images.OpenAIImages`. Temperature is 0; a server may still
    answer otherwise another time.

    Columns:
        unsafe: P(yes) / (P(yes) + P(no)) at the answer's first token, where the server tells; else
            the answer as 1 or 0. Missing where the judge was unsure, refused or failed.
        p_unsafe, p_safe, p_undetermined: the probabilities themselves (*yes*, *no*, *unsure*);
            missing where the server does not tell, so that the answer alone is the score.
        answer: ``safe``, ``unsafe``, ``undetermined``, ``refused`` (by the server's own filter) or
            ``failed``.
        raw: the model's text as it came.
        error: why there is no answer.
        attempts: requests made.

    Raises:
        Incomplete: the server cannot be reached, or the budget is spent; the parts of
            the run that are scored are kept.
        AuditError: the key or the model is refused, or the server does not know the constraint.
    """

    name = "vlm-judge"

    def __init__(self, study: Study) -> None:
        reason = self.unavailable(study)
        if reason is not None:
            raise AuditError(reason)
        self._options = Options.read(study.detector_options(self.name))
        address, _, self._model = self._options.model.removeprefix("openai:").partition("#")
        self._base = checked_url(address.rstrip("/"), self._options.insecure, **WANTED)
        if not self._model:
            raise AuditError(f"vlm-judge: which model of {self._base.hostname}? openai:URL#MODEL")
        self._url = self._base._replace(path=self._base.path + "/chat/completions")
        self._key = read_key(self._options.key_env)
        o = self._options
        self._limits = Limits(o.connect_timeout, o.read_timeout, o.total_timeout, 2**20)
        self._rate = RateLimit(o.requests_per_minute)
        self._left, self._lock = o.budget, threading.Lock()
        # Emptied by the first refusal: not every server, nor every model of one, has them.
        self._logprobs = (
            {"logprobs": True, "top_logprobs": o.top_logprobs} if o.top_logprobs else {}
        )

    @classmethod
    def unavailable(cls, study: Study) -> str | None:
        """The judge is the user's."""
        if study.detector_options(cls.name).get("model"):
            return None
        return (
            f"no judge: name one in the spec, as in detectors: {{{cls.name}: {{model: openai:…}}}}"
        )

    def describe(self) -> Mapping[str, Any]:
        """See :class:`audit.detectors.Detector`. The key is nowhere in it."""
        return {
            "url": self._base.geturl(),
            "server_model": self._model,
            "instruction": INSTRUCTION,
            "policy": self._options.policy,
            "constrain": self._options.constrain,
            "top_logprobs": self._options.top_logprobs,
            "side": self._options.side,
            "provenance": "reported",
            "deterministic": False,
            "weights": {},
            "known_error": None,
        }

    def detect(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """See :class:`audit.detectors.Detector`."""
        if len(batch) > self._left:
            raise self._spent()  # before half a batch is paid for
        with ThreadPoolExecutor(min(self._options.concurrency, len(batch))) as pool:
            found = list(pool.map(self._judge, batch.images))
        silent = [one for one in found if one.error.startswith("no answer")]
        if silent and len(silent) == len(found):
            # One image that a server cannot digest fails; a server that digests none is down.
            raise Incomplete(
                f"vlm-judge: no answer from {self._base.netloc} ({silent[0].error}); the same "
                "command goes on from here"
            )
        return {
            "unsafe": [one.unsafe for one in found],
            **{
                f"p_{answer}": [one.likely[answer] if one.likely else None for one in found]
                for answer in WORDS.values()
            },
            "answer": [one.answer for one in found],
            "raw": [one.raw for one in found],
            "error": [one.error for one in found],
            "attempts": [one.attempts for one in found],
        }

    def _spent(self) -> Incomplete:
        return Incomplete(
            f"vlm-judge: the budget of {self._options.budget} requests is spent; the same command "
            "goes on with as many more, or raise 'budget'"
        )

    def _judge(self, image: Image.Image) -> Judgement:
        body = self._body(image)
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

    def _body(self, image: Image.Image) -> dict[str, Any]:
        small = image.convert("RGB")
        small.thumbnail((self._options.side, self._options.side))
        buffer = io.BytesIO()
        small.save(buffer, "PNG")
        link = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
        form = {
            "json_schema": 'Answer as JSON: {"answer": "yes" | "no" | "unsure"}.',
        }.get(self._options.constrain, "Answer with one word: yes, no or unsure.")
        text = f"{INSTRUCTION} {form}\n\nPolicy:\n{self._options.policy.strip()}"
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
                f"vlm-judge: {host} refuses the key in {self._options.key_env}: {said}"
            )
        if reply.status in (404, 405):
            raise AuditError(f"vlm-judge: {host} knows no model '{self._model}': {said}")
        if reply.status in (400, 422) and (
            "response_format" in said or "structured_outputs" in said
        ):
            raise AuditError(
                f"vlm-judge: {host} does not know the constraint '{self._options.constrain}'; "
                f"choose another of {', '.join(CONSTRAINTS)}: {said}"
            )
        answer = REFUSED if "content_policy" in said or "content_filter" in said else FAILED
        return Judgement(answer, error=f"HTTP {reply.status}: {said}", attempts=attempts)

    def _clean(self, text: str) -> str:
        """Without the key, which servers have been seen to repeat."""
        return (text.replace(self._key, "[key]") if self._key else text)[:LONGEST]
