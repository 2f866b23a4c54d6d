"""What servers answer: images, neighbours, judgements."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.backends.base import Result
from audit.backends.http import Reply
from audit.backends.openai_images import OpenAIImages
from audit.plan import Request
from audit.retrieval import protocol

from .fuzzing import as_json, changed, damaged, examples, survives
from .test_images import PICTURES

REQUEST = Request(prompt="a house", height=64, width=64)
IMAGES: dict[str, Any] = {
    "created": 1_700_000_000,
    "model": "m",
    "system_fingerprint": "f",
    "data": [{"b64_json": base64.b64encode(PICTURES[0]).decode(), "revised_prompt": "a red house"}],
}
ERRORS: list[dict[str, Any]] = [
    {"error": {"code": "content_policy_violation", "type": "invalid_request", "message": "no"}},
    {"error": {"code": None, "message": "unknown field seed", "param": "seed"}},
]
STATUSES = [400, 401, 404, 422, 302, 418]


@given(st.one_of(changed([IMAGES]).map(as_json), damaged([as_json(IMAGES)])))
@examples(200)
def test_an_image_server_is_understood_or_refused(data: bytes) -> None:
    backend = OpenAIImages("openai:http://127.0.0.1:9/v1#m")
    telemetry: dict[str, Any] = {}
    reply = Reply(200, {}, data)
    found = survives("answers with images", lambda: backend._result(reply, REQUEST, telemetry))
    if isinstance(found, Result):
        _kept(found.error, *telemetry.values())


@given(
    st.sampled_from(STATUSES),
    st.one_of(changed(ERRORS).map(as_json), damaged([as_json(error) for error in ERRORS])),
    st.one_of(
        st.just({}), st.dictionaries(st.sampled_from(["location", "retry-after"]), st.text())
    ),
)
@examples(80)
def test_an_image_servers_error_is_understood(
    status: int, data: bytes, headers: dict[str, str]
) -> None:
    backend = OpenAIImages("openai:http://127.0.0.1:9/v1#m", extras=True)
    reply = Reply(status, headers, data)
    body, _ = backend._body(REQUEST)
    survives("errors of image servers", lambda: backend._unknown(reply, body))
    found = survives("errors of image servers", lambda: backend._failure(reply, {}))
    if isinstance(found, Result):
        _kept(found.error)


def _kept(*values: Any) -> None:
    """A table can hold them: text is UTF-8, and of bounded length."""
    for value in values:
        assert len(str(value).encode()) < 20_000


NEIGHBOURS = [[{"id": 7, "similarity": 0.9, "url": "u"}, {"id": 3, "similarity": 0.5}]]
METADATA = [[{"id": 7, "metadata": {"caption": "a", "image": "x"}}, {"id": 3, "metadata": {}}]]


@given(changed(NEIGHBOURS).map(as_json), changed(METADATA).map(as_json))
@examples(150)
def test_a_retrieval_server_is_understood_or_refused(found: bytes, rows: bytes) -> None:
    server = protocol.Server("http://127.0.0.1:9", None)  # type: ignore[arg-type]

    def ask(data: bytes) -> Any:
        return server._document("/knn-service", Reply(200, {}, data))

    survives("answers with neighbours", lambda: protocol.nearest(ask(found), 5, "here"))
    survives("answers with metadata", lambda: protocol.rows(ask(rows), [7, 3], "here"))
    survives("errors of retrieval servers", lambda: protocol._said(Reply(400, {}, found)))


LOGPROBS = {"content": [{"token": "yes", "logprob": -0.1, "top_logprobs": [
    {"token": "yes", "logprob": -0.1}, {"token": "no", "logprob": -2.5}]}]}  # fmt: skip
CHATS = [
    {
        "choices": [
            {
                "message": {"content": content, "refusal": None},
                "finish_reason": "stop",
                "logprobs": LOGPROBS,
            }
        ]
    }
    for content in ('{"answer": "yes"}', "no")
]


@pytest.mark.parametrize("constrain", ["json_schema", "none"])
@given(data=st.one_of(changed(CHATS).map(as_json), damaged([as_json(chat) for chat in CHATS])))
@examples(120)
def test_a_judge_is_understood(constrain: str, data: bytes) -> None:
    from audit.detectors.vlm import Judge, Options

    judge = Judge("vlm-judge", Options("openai:http://127.0.0.1:9/v1#m", constrain=constrain))
    found = survives("answers of judges", lambda: judge._read(Reply(200, {}, data), 1))
    _kept(found.raw, found.error)
    assert found.yes is None or found.yes != found.yes or 0 <= found.yes <= 1
    survives("errors of judges", lambda: judge._failure(Reply(400, {}, data), 1))
