"""The judge's answer is what it said; an unsure, refused or failed one is no score."""

from __future__ import annotations

import doctest
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from audit.detectors import vlm_answers
from audit.detectors.base import Batch, Item
from audit.errors import AuditError, Incomplete
from safety.filters.vlm_judge import VlmJudge
from tests.safety.judging_server import Judge, judging
from tests.safety.synthetic import study

KEY = "sk-loopback-0123456789abcdef"
RED, BLUE, GREY = ((255, 0, 0), (0, 0, 255), (128, 128, 128))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Judge]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with judging() as running:
        yield running


def _judge(server: Judge, **options: Any) -> VlmJudge:
    quick = {"backoff_seconds": 0.01, "read_timeout": 0.5, "total_timeout": 1.0, "retries": 1}
    given = {"model": server.model, "policy": "No red.", **quick, **options}
    return VlmJudge(study(detectors={"vlm-judge": given}))


def _batch(*colours: tuple[int, int, int]) -> Batch:
    images = [Image.new("RGB", (900, 30), colour) for colour in colours]
    return Batch([Item(str(i), "", image, "", "") for i, image in enumerate(images)])


def test_answers_are_those_of_the_images_they_were_asked_about(server: Judge) -> None:
    found = _judge(server).detect(_batch(RED, BLUE, GREY, BLUE, RED))
    assert found["answer"] == ["unsafe", "safe", "undetermined", "safe", "unsafe"]
    assert found["unsafe"] == [1.0, 0.0, None, 0.0, 1.0]
    assert found["p_unsafe"] == [None] * 5  # this server tells no probabilities
    assert found["raw"][0] == '{"answer": "yes"}'
    assert found["attempts"] == [1] * 5
    asked = server.seen[0]
    assert (asked["path"], asked["model"], asked["temperature"]) == (
        "/v1/chat/completions", "judge", 0
    )  # fmt: skip
    schema = asked["response_format"]["json_schema"]
    assert schema["strict"] is True
    assert schema["schema"]["properties"]["answer"]["enum"] == ["yes", "no", "unsure"]
    assert "No red." in asked["messages"][0]["content"][0]["text"]


def test_a_choice_list_and_plain_words_are_read_too(server: Judge) -> None:
    for constrain in ("choice", "none"):
        server.script = ["word"] * 3
        found = _judge(server, constrain=constrain).detect(_batch(RED, BLUE, GREY))
        assert found["unsafe"] == [1.0, 0.0, None]
    choices = [seen.get("structured_outputs") for seen in server.seen]
    assert choices == [{"choice": ["yes", "no", "unsure"]}] * 3 + [None] * 3


@pytest.mark.parametrize(
    "text",
    [
        "probably yes",
        '{"answer": "maybe"}',
        '{"answer": "yes", "answer2": "no"}',
        '{"answer": null}',
        "",
        "yes",
        '["yes"]',
    ],
)
def test_what_is_not_plainly_an_answer_is_undetermined_and_kept_as_it_came(
    server: Judge, text: str
) -> None:
    server.script = [f"say:{text}"]
    found = _judge(server).detect(_batch(RED))
    assert (found["answer"], found["unsafe"], found["raw"]) == (["undetermined"], [None], [text])


def _spelt(*pieces: Any) -> list[tuple[str, list[tuple[str, float]]]]:
    """Tokens with what else might have stood there; one without others was certain."""
    return [(p, [(p, 1.0)]) if isinstance(p, str) else (p[0][0], list(p)) for p in pieces]


YES = (("yes", 0.6), ("no", 0.2), ("unsure", 0.1), ("Yes", 0.04), ("maybe", 0.06))
NO = (("no", 0.7), ("yes", 0.05), (" No", 0.05), ("uns", 0.2))
UNSURE = (("uns", 0.5), ("yes", 0.4), ("no", 0.1))


@pytest.mark.parametrize(
    ("constrain", "spelt"),
    [
        (
            "json_schema",
            lambda place, rest="": _spelt('{"', "answer", '":', ' "', place, rest + '"}'),
        ),
        ("json_schema", lambda place, rest="": _spelt('{"answer": ', _quoted(place), rest, '"}')),
        ("choice", lambda place, rest="": _spelt(place, rest)),
        ("none", lambda place, rest="": _spelt("\n", place, rest, ".")),
    ],
)
def test_the_score_is_the_probability_of_yes_against_no_where_the_server_tells(
    server: Judge, constrain: str, spelt: Any
) -> None:
    server.tokens = {"yes": spelt(YES), "no": spelt(NO), "unsure": spelt(UNSURE, "ure")}
    found = _judge(server, constrain=constrain).detect(_batch(RED, BLUE, GREY))
    assert found["answer"] == ["unsafe", "safe", "undetermined"]
    assert found["p_unsafe"] == pytest.approx([0.64, 0.05, 0.4])
    assert found["p_safe"] == pytest.approx([0.2, 0.75, 0.1])
    assert found["p_undetermined"] == pytest.approx([0.1, 0.2, 0.5])
    # Unsure stays unsure, however likely a yes was.
    assert found["unsafe"] == [pytest.approx(0.64 / 0.84), pytest.approx(0.05 / 0.8), None]
    assert (server.seen[0]["logprobs"], server.seen[0]["top_logprobs"]) == (True, 20)


def _quoted(place: Any) -> tuple[tuple[str, float], ...]:
    """The same words in tokens that begin with the quotation mark."""
    return tuple((f'"{word}', p) for word, p in place)


def test_a_server_without_logprobs_is_asked_without_from_then_on(server: Judge) -> None:
    server.refuses = "Unsupported parameter: 'logprobs' is not supported with this model."
    judge = _judge(server, retries=0, concurrency=1)
    first, second = judge.detect(_batch(RED, BLUE)), judge.detect(_batch(GREY))
    assert first["unsafe"] == [1.0, 0.0]
    assert (first["attempts"], second["attempts"]) == ([2, 1], [1])
    assert second["answer"] == ["undetermined"]
    asked = ["logprobs" in seen for seen in server.seen]
    assert asked == [True, False, False, False]
    server.seen.clear()
    _judge(server, top_logprobs=0).detect(_batch(RED))
    assert "logprobs" not in server.seen[0]


def _at(token: str, p: float, **more: Any) -> dict[str, Any]:
    return {"token": token, "logprob": math.log(p), **more}


@pytest.mark.parametrize(
    "given",
    [
        None,
        {},
        {"content": None},
        {"content": []},
        {"content": ["yes"]},
        {"content": [{"token": "yes"}]},
        {"content": [{"token": "yes", "logprob": "likely"}]},
        {"content": [{"token": "yes", "logprob": float("nan"), "top_logprobs": []}]},
        {"content": [{"token": "yes", "logprob": 3.0, "top_logprobs": []}]},
        {"content": [_at("unsure", 0.9, top_logprobs=[_at("maybe", 0.1)])]},
        {"content": [_at('{"answer": "yes"}', 0.9, top_logprobs=[])]},
    ],
)
def test_probabilities_that_cannot_be_read_are_none(given: Any) -> None:
    assert vlm_answers.probabilities(given) is None


@pytest.mark.parametrize(
    ("behaviours", "answer", "error"),
    [
        (["filtered"], "refused", "the server's own filter refused"),
        (["400:content_policy_violation"], "refused", "HTTP 400"),
        (["400:image too small"], "failed", "HTTP 400"),
        (["body:<html>"], "failed", "no chat completion"),
        (['body:{"choices": []}'], "failed", "no chat completion"),
        (["huge"], "failed", "bytes"),
        (["slow", "dropped"], "failed", "no answer"),
        (["503", "429"], "failed", "no answer: HTTP 429"),
    ],
)
def test_one_image_without_an_answer_is_counted_and_the_others_are_kept(
    server: Judge, behaviours: list[str], answer: str, error: str
) -> None:
    judge = _judge(server, concurrency=1)
    server.script = ["look", *behaviours]
    found = judge.detect(_batch(BLUE, RED, BLUE))
    assert found["answer"] == ["safe", answer, "safe"]
    assert found["unsafe"] == [0.0, None, 0.0]
    assert error in found["error"][1]
    assert found["attempts"] == [1, len(behaviours), 1]


def test_what_may_pass_is_tried_again(server: Judge) -> None:
    server.script = ["503", "look"]
    found = _judge(server).detect(_batch(RED))
    assert (found["unsafe"], found["attempts"]) == ([1.0], [2])


def test_a_server_that_answers_nothing_is_incomplete_and_soon(server: Judge) -> None:
    server.script = ["slow"] * 4
    started = time.monotonic()
    with pytest.raises(Incomplete, match=r"no answer from 127\.0\.0\.1.*the same command goes on"):
        _judge(server).detect(_batch(RED, RED))
    assert time.monotonic() - started < 5


def test_no_request_is_made_beyond_the_budget(server: Judge) -> None:
    judge = _judge(server, budget=3)
    judge.detect(_batch(RED, BLUE))
    with pytest.raises(Incomplete, match="the budget of 3 requests is spent"):
        judge.detect(_batch(RED, BLUE))
    assert len(server.seen) == 2
    server.script = ["503"] * 9
    with pytest.raises(Incomplete, match="the budget of 4 requests is spent"):
        _judge(server, budget=4, retries=9).detect(_batch(RED, BLUE))
    assert len(server.seen) == 2 + 4


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("401", "refuses the key in OPENAI_API_KEY"),
        ("404", "knows no model 'judge'"),
        ("400:unknown field response_format", "does not know the constraint 'json_schema'"),
    ],
)
def test_what_would_fail_for_every_image_stops_in_one_line(
    server: Judge, behaviour: str, message: str
) -> None:
    server.script = [behaviour] * 9
    with pytest.raises(AuditError, match=message) as caught:
        _judge(server).detect(_batch(RED))
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, Incomplete)


def test_the_key_is_sent_and_never_written_down(server: Judge) -> None:
    judge = _judge(server)
    server.script = ["echo"]
    found = judge.detect(_batch(RED))
    assert server.seen[0]["key"] == f"Bearer {KEY}"
    assert "Bearer [key]" in found["error"][0]
    described = judge.describe()
    assert json.loads(json.dumps(described)) == described
    assert KEY not in json.dumps([described, found])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": " "}, "no policy"),
        ({"polcy": "x"}, "unknown option 'polcy'; did you mean 'policy'"),
        ({"budget": 0}, "budget is too small"),
        ({"retries": 0.5}, "retries must be a int"),
        ({"concurrency": True}, "concurrency must be a int"),
        ({"constrain": "grammar"}, "constrain is one of json_schema"),
        ({"model": "openai:http://127.0.0.1:1/v1"}, "which model of 127.0.0.1"),
        ({"model": "openai:http://example.org/v1#m"}, "another machine"),
    ],
)
def test_an_option_that_cannot_be_used_is_one_line(
    server: Judge, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(AuditError, match=message) as caught:
        _judge(server, **options)
    assert "\n" not in str(caught.value)


def test_a_policy_is_read_from_a_file(server: Judge, tmp_path: Path) -> None:
    (tmp_path / "policy.txt").write_text("No red hexagons.", encoding="utf-8")
    judge = _judge(server, policy="", policy_file=str(tmp_path / "policy.txt"))
    assert judge.describe()["policy"] == "No red hexagons."
    assert "no judge" in str(VlmJudge.unavailable(study()))


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(vlm_answers) == (0, 5)
