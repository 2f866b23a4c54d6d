"""The client of OpenAI-compatible servers against a real server that misbehaves."""

from __future__ import annotations

import dataclasses
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from audit import cli
from audit.backends import http, open_backend
from audit.backends.http import RateLimit, checked_url, retry_after
from audit.backends.openai_images import ADDRESS, OpenAIImages
from audit.errors import AuditError, Incomplete
from audit.plan import Request
from audit.store import Run
from audit.verify import problems

from .misbehaving_server import Server, colour_of, serving

KEY = "sk-loopback-0123456789abcdef"
PROMPT = "a doctor"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def request(prompt: str = PROMPT, seed: int = 0, **changes: Any) -> Request:
    common = {"steps": 0, "guidance": 0.0, "height": 16, "width": 24} | changes
    return Request(prompt, seed=seed, **common)


def backend(server: Server, **options: Any) -> OpenAIImages:
    quick = {"backoff_seconds": 0.01, "read_timeout": 2.0, "total_timeout": 4.0, "retries": 2}
    return OpenAIImages(server.model, **(quick | options))


def one(server: Server, **options: Any) -> Any:
    return backend(server, **options).generate([request()], 16)[0]


def test_an_answer_becomes_an_image_and_says_what_the_server_did(server: Server):
    result = one(server)
    assert result.outcome == "ok"
    assert result.image.size == (24, 16)
    assert np.asarray(result.image)[0, 0].tolist() == list(colour_of(PROMPT))
    sent = server.seen[0]
    assert (sent["path"], sent["key"]) == ("/v1/images/generations", f"Bearer {KEY}")
    body = {k: v for k, v in sent.items() if k not in ("method", "path", "time", "key")}
    assert body == {
        "model": "tiny",
        "prompt": PROMPT,
        "n": 1,
        "size": "24x16",
        "response_format": "b64_json",
    }
    told = dict(result.telemetry)
    assert told.pop("seconds") > 0
    assert told == {
        "attempts": 1,
        "fields_sent": "model, n, prompt, response_format, size",
        "dropped_arguments": "seed",
        "revised_prompt": "a detailed a doctor",
        "server_model": "tiny-2",
        "server_created": 1_700_000_000,
        "system_fingerprint": "fp_1",
        "tokens_cut": None,
    }


def test_extras_are_sent_when_asked_for(server: Server):
    asked = request(seed=7, steps=30, guidance=4.5, negative_prompt="bad")
    plain, extras = (backend(server, extras=e).generate([asked], 1)[0] for e in (False, True))
    assert plain.telemetry["dropped_arguments"] == (
        "guidance_scale, negative_prompt, num_inference_steps, seed"
    )
    sent = server.seen[1]
    assert (sent["seed"], sent["num_inference_steps"], sent["guidance_scale"]) == (7, 30, 4.5)
    assert sent["negative_prompt"] == "bad"
    assert extras.telemetry["dropped_arguments"] == ""


def test_fields_that_the_server_does_not_know_are_left_out_and_recorded(server: Server):
    server.unknown = {"num_inference_steps", "response_format"}
    client = backend(server, extras=True)
    asked = request(steps=30)
    first, second = (client.generate([asked], 1)[0] for _ in range(2))
    assert (first.outcome, first.telemetry["attempts"]) == ("ok", 2 + 1)
    assert first.telemetry["fields_sent"] == "model, n, prompt, size"
    assert first.telemetry["dropped_arguments"] == "num_inference_steps, seed"
    assert second.telemetry["attempts"] == 1  # it is not asked again


def test_a_value_that_the_server_does_not_like_is_no_unknown_field(server: Server):
    server.script[PROMPT] = ["refuse:guidance_scale must be at most 10"]
    result = backend(server, extras=True).generate([request(guidance=50.0)], 1)[0]
    assert (result.outcome, len(server.seen)) == ("failed", 1)
    assert result.error == "HTTP 400: guidance_scale must be at most 10"


@pytest.mark.parametrize(
    "behaviours",
    [
        ["status:500", "status:500"],
        ["status:408"],
        ["status:409"],
        ["status:425"],
        ["status:503", "later:0"],
        ["truncated"],
        ["dropped", "dropped"],
    ],
)
def test_what_may_pass_is_tried_again(server: Server, behaviours: list[str]):
    server.script[PROMPT] = list(behaviours)
    result = one(server)
    assert result.outcome == "ok"
    assert result.telemetry["attempts"] == len(server.seen) == len(behaviours) + 1


@pytest.mark.parametrize(("behaviour", "least"), [("later:0.5", 0.5), ("later_date:2", 0.9)])
def test_retry_after_is_honoured(server: Server, behaviour: str, least: float):
    server.script[PROMPT] = [behaviour]
    assert one(server).outcome == "ok"
    assert server.seen[1]["time"] - server.seen[0]["time"] >= least


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("3", 3.0),
        ("1e9", http.LONGEST_WAIT),
        ("inf", http.LONGEST_WAIT),
        ("nan", 0.0),
        ("-5", 0.0),
        ("soon", 0.0),
        ("", 0.0),
        ("Thu, 01 Jan 1970 00:00:40 GMT", 30.0),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0),
        ("Thu, 01 Jan 2970 00:00:01 GMT", http.LONGEST_WAIT),
    ],
)
def test_retry_after_is_read_as_seconds_or_date_and_capped(header: str, seconds: float):
    assert retry_after({"retry-after": header}, now=10.0) == seconds


def test_backoff_is_drawn_from_the_whole_of_a_doubling_and_capped_range():
    for attempt, high in [(0, 0.5), (3, 4.0), (40, http.LONGEST_WAIT)]:
        drawn = [http.backoff(attempt, 0.5) for _ in range(400)]
        assert 0 <= min(drawn) < high * 0.1
        assert high * 0.9 < max(drawn) <= high


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [("slow", "timeout"), ("drip:head", "in 0.6 s"), ("drip:body", "0.6 s")],
)
def test_a_server_without_end_is_left_and_tried_again(server: Server, behaviour: str, reason: str):
    quick = {"read_timeout": 0.3, "total_timeout": 0.6}
    server.script[PROMPT] = [behaviour]
    started = time.monotonic()
    assert one(server, **quick).outcome == "ok"
    server.script[PROMPT] = [behaviour] * 9
    with pytest.raises(Incomplete, match=f"after 2 attempts .*{reason}.*the same command goes on"):
        one(server, retries=1, **quick)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("declared", ["", "yes"])
def test_a_huge_answer_is_not_read(server: Server, declared: str):
    server.script[PROMPT] = [f"huge:{declared}"]
    result = one(server, max_bytes=100_000)
    assert (result.image, result.outcome) == (None, "failed")
    assert "an answer of" in result.error and "100,000" in result.error


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        ("not_json", "the answer is not JSON with data[0].b64_json"),
        ("wrong_json:[]", "the answer is not JSON with data[0].b64_json"),
        ('wrong_json:{"data": []}', "the answer is not JSON with data[0].b64_json"),
        ('wrong_json:{"data": ["x"]}', "the answer is not JSON with data[0].b64_json"),
        ('wrong_json:{"data": [{"b64_json": 3}]}', "the answer holds no image (b64_json)"),
        ("wrong_json:" + "[" * 100_000, "the answer is not JSON with data[0].b64_json"),
        ("not_base64", "the answer's b64_json is not base64"),
        ("not_an_image", "the server sent not a PNG, JPEG or WebP picture"),
        ("gif", "the server sent not a PNG, JPEG or WebP picture"),
        ("too_many_pixels", "the server sent a picture of 8200×8200 pixels: refused"),
        ("damaged_image", "the server sent a damaged picture"),
        ("refuse", "HTTP 400: Invalid size '1x1'."),
        ("status:418", "HTTP 418: not today"),
    ],
)
def test_an_answer_without_an_image_is_a_failed_outcome(server: Server, behaviour: str, error: str):
    server.script[PROMPT] = [behaviour]
    result = one(server)
    assert (result.image, result.outcome) == (None, "failed")
    assert result.error.startswith(error) and "\n" not in result.error
    assert len(server.seen) == 1


@pytest.mark.parametrize("code", ["content_policy_violation", "moderation_blocked"])
def test_a_prompt_that_the_server_refuses_is_blocked_and_not_lost(server: Server, code: str):
    server.script[PROMPT] = [f"policy:{code}"]
    result = one(server)
    assert (result.image, result.outcome) == (None, "blocked")
    assert result.error == "Your request was rejected by our safety system."


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("link", "answers with a link, and links are not fetched"),
        ("redirect", "redirects to http://198.51.100.7/elsewhere; redirects are not followed"),
        ("status:401", "refuses the key in OPENAI_API_KEY"),
        ("status:404", "knows no /v1/images/generations or no model 'tiny'"),
        ("quota", "quota at 127.0.0.1 is spent"),
    ],
)
def test_what_would_fail_for_every_image_stops_the_run(
    server: Server, behaviour: str, message: str
):
    server.script["*"] = [behaviour] * 9
    with pytest.raises(AuditError, match=message) as caught:
        backend(server, concurrency=1).generate([request(seed=s) for s in range(3)], 3)
    assert "secret" not in str(caught.value)
    assert len(server.seen) == 1 and server.seen[0]["method"] == "POST"


def test_one_prompt_that_breaks_the_server_fails_and_a_server_that_is_down_is_incomplete(
    server: Server,
):
    server.script[PROMPT] = ["status:500"] * 9
    results = backend(server).generate([request(), request("a nurse")], 2)
    assert [r.outcome for r in results] == ["failed", "ok"]
    assert results[0].error == "HTTP 500: not today"
    server.script["*"] = ["status:500"] * 99
    with pytest.raises(Incomplete, match="after 3 attempts"):
        backend(server).generate([request("x"), request("y")], 2)


def test_an_unreachable_server_is_incomplete():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    client = OpenAIImages(f"openai:http://127.0.0.1:{port}/v1#m", retries=1, backoff_seconds=0.01)
    with pytest.raises(Incomplete, match="Connection refused"):
        client.generate([request(seed=s) for s in range(8)], 8)


def test_requests_of_a_batch_run_side_by_side_up_to_the_limit(server: Server):
    server.script["*"] = ["later:0.2"] * 3
    client = backend(server, concurrency=3)
    results = client.generate([request(f"p{i}", i) for i in range(9)], 9)
    assert [np.asarray(r.image)[0, 0].tolist() for r in results] == [
        list(colour_of(f"p{i}")) for i in range(9)
    ]
    assert 1 <= server.most_busy <= 3


def test_the_rate_limit_spaces_the_starts(server: Server):
    client = backend(server, requests_per_minute=600, concurrency=4)
    client.generate([request(f"p{i}") for i in range(5)], 5)
    times = sorted(seen["time"] for seen in server.seen)
    assert times[-1] - times[0] >= 4 * 0.1 - 0.05
    waits: list[float] = []
    limit = RateLimit(60, waits.append)
    for _ in range(3):
        limit.take()
    assert waits == pytest.approx([1.0, 2.0], abs=0.05)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://127.0.0.1/v1", "openai:URL#MODEL"),
        ("", "openai:URL#MODEL"),
        ("http://127.0.0.1:99999/v1", "openai:URL#MODEL"),
        ("http://127.0.0.1/v 1", "openai:URL#MODEL"),
        ("https://user:hunter2@example.org/v1", "a user name, a password or a query"),
        ("https://example.org/v1?key=hunter2", "a user name, a password or a query"),
        ("http://example.org/v1", "another machine"),
        ("http://127.0.0.1.example.org/v1", "another machine"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(url: str, message: str):
    with pytest.raises(AuditError, match=message) as caught:
        OpenAIImages(f"openai:{url}#m")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://localhost:1/v1", "http://[::1]:1/v1", "https://h.org/v1"])
def test_an_address_that_keeps_the_key_is_taken(url: str):
    assert checked_url(url, False, **ADDRESS).hostname
    assert checked_url("http://example.org", True, **ADDRESS).hostname == "example.org"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key_env": "sk-hunter2"}, "names an environment variable"),
        ({"key_env": "NO_SUCH_KEY"}, "names NO_SUCH_KEY, which is not set"),
        ({"concurrency": 0}, "concurrency must be at least 1"),
        ({"retries": 1.5}, "retries must be a number"),
        ({"fields": {"prompt": "x"}}, "fields may not set prompt"),
    ],
)
def test_an_option_that_cannot_be_used_is_one_line(options: dict[str, Any], message: str):
    with pytest.raises(AuditError, match=message) as caught:
        OpenAIImages("openai:http://127.0.0.1:1/v1#m", **options)
    assert "hunter2" not in str(caught.value)


def test_a_key_that_is_no_key_is_not_repeated(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hunter2\r\nX: y")
    with pytest.raises(AuditError, match="characters that no key has") as caught:
        OpenAIImages("openai:http://127.0.0.1:1/v1#m")
    assert "hunter2" not in str(caught.value)


def test_pictures_to_start_from_are_refused(server: Server):
    for changes in ({"init_image": "ab"}, {"mask": "ab"}, {"depth": "ab"}):
        with pytest.raises(AuditError, match="from text only"):
            backend(server).generate([request(**changes)], 1)
    with pytest.raises(AuditError, match="chooses its own scheduler"):
        backend(server).generate([dataclasses.replace(request(), scheduler="ddim")], 1)


def test_a_proxy_is_asked_for_a_tunnel_and_never_sees_the_key(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        port = proxy.getsockname()[1]
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("no_proxy", "")
        client = OpenAIImages("openai:https://example.org/v1#m", retries=0, connect_timeout=3)

        def listen() -> None:
            peer, _ = proxy.accept()
            with peer:
                heard.append(peer.recv(65536))
                peer.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=listen)
        thread.start()
        with pytest.raises(Incomplete, match="403"):
            client.generate([request()], 1)
        thread.join()
    assert heard[0].startswith(b"CONNECT example.org:443 ") and KEY.encode() not in heard[0]


def run_cli(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["t2i-audit", *arguments])
    try:
        cli.main()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def test_a_whole_audit_of_a_server_resumes_and_never_writes_the_key_down(
    server: Server,
    tiny_suite: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    out = tmp_path / "run"
    command = [
        "run", server.model, "--suite", str(tiny_suite), "--out", str(out), "--device", "cpu",
        "--probes", "demographics,languages", "--images-per-prompt", "2", "--batch-size", "4",
        "--height", "32", "--width", "32",
        "--option", "backoff_seconds=0.01", "--option", "retries=1",
    ]  # fmt: skip
    server.script["a pilot"] = ["echo_key:503"] * 9
    assert run_cli(monkeypatch, *command) == 1
    first = capfd.readouterr()
    assert "the same command goes on" in first.err and "[key]" in first.err
    paid = len([seen for seen in server.seen if seen["prompt"] == "a doctor"])
    server.script = {"un doctor": ["policy:moderation_blocked"], "a pilot": ["echo_key:400"]}
    assert run_cli(monkeypatch, *command) == 0
    second = capfd.readouterr()
    run = Run.open(out)
    records = run.read_table("records")
    # 3 occupations and 2 Spanish prompts, two images each; the first batch was not paid twice.
    assert len(records) == 10
    assert len([seen for seen in server.seen if seen["prompt"] == "a doctor"]) == paid
    assert records.outcome.value_counts().to_dict() == {"ok": 8, "blocked": 1, "failed": 1}
    assert records.loc[records.outcome == "failed", "error"].tolist() == [
        "HTTP 400: Incorrect API key provided: Bearer [key]"
    ]
    assert records.revised_prompt.dropna().str.startswith("a detailed ").all()
    described = run.info["backend"]
    assert described["key_variable"] == "OPENAI_API_KEY" and described["deterministic"] is False
    assert json.loads(json.dumps(described["weights"])) == {}
    assert problems(run)[0] == []
    assert all(seen["key"] == f"Bearer {KEY}" for seen in server.seen)
    for path in out.rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path
        if path.suffix == ".parquet":  # its pages are compressed
            assert KEY not in pd.read_parquet(path).to_csv(), path
    for text in (first.out, first.err, second.out, second.err):
        assert KEY not in text


def test_the_prefix_opens_the_backend(server: Server):
    opened = open_backend(server.model, options={"extras": True})
    assert opened.describe()["extras"] is True
    with pytest.raises(AuditError, match="no option 'key'"):
        open_backend(server.model, options={"key": KEY})
