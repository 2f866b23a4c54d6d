"""What the fuzz tests share: the rule, the mutations, the bounds, and the count of inputs.

The rule: whatever comes in, the answer is a result or an AuditError, one line of less than 500
characters; within a time and a memory that do not depend on what the input claims of itself.

Every strategy starts from a valid input and damages it in few places, so that what lies deep is
reached. ``T2I_AUDIT_FUZZ=N`` tries N inputs a test, other ones each time.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import signal
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from audit.errors import AuditError

SECONDS = 30
"""For one input, on a machine that does other things too; what hangs takes longer."""
MEMORY = 2 * 2**30
"""Bytes that one input may add; the largest picture that is allowed decodes to 200 MB."""
LONGEST = 500
TRIED: Counter[str] = Counter()
"""Kind of input → how many were tried by this process."""


def examples(number: int) -> settings:
    """Settings of a fuzz test: `number` inputs, the same ones each time, unless more are wanted."""
    wanted = int(os.environ.get("T2I_AUDIT_FUZZ", "0"))
    return settings(
        max_examples=wanted or number,
        deadline=None,
        derandomize=not wanted,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


def survives(kind: str, work: Callable[[], Any]) -> Any:
    """Do `work`, which may end in a result or in an AuditError of one line, and in nothing else.

    Returns:
        What it returned, or the AuditError.
    """
    TRIED[kind] += 1
    try:
        with bounded(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of decoders, about damage
            return work()
    except AuditError as error:
        said = str(error)
        assert said.strip(), "an error without a word"
        assert len(said) < LONGEST, f"{len(said)} characters: {said[:200]}"
        odd = [c for c in said if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
        assert not odd, f"not one line of text: {said!r}"
        return error


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """A block that may take `SECONDS` and add `MEMORY` of address space."""

    def over(*_: Any) -> None:
        raise Hang

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    before = signal.signal(signal.SIGALRM, over)
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, hard))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, before)


class Hang(BaseException):
    """One input took longer than `SECONDS`."""


# ---- bytes -----------------------------------------------------------------------------------

TOKENS = [
    b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\xf0\x9f\x92\xa9", b"\n", b"\r", b"\t", b'"', b"'",
    b",", b":", b"{", b"}", b"[", b"]", b"- ", b"---\n", b"&a ", b"*a", b"!!python/name:os.system ",
    b"!!timestamp ", b"!!int ", b"!!float ", b"!!binary ", b"<<: ", b"? ", b"|\n", b"#", b"%", b"`",
    b"NaN", b"-Infinity", b"1e999", b"0x", b"-1", b"9" * 5000, b"2026-99-99", b"null", b"true",
    b"\xe2\x80\xa8", b"\x1b[2J", b"\x85", b"[" * 1200, b"{a: " * 300, b"../" * 20, b"a" * 3000,
    b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\x7f\xff\xff\xff\xff\xff\xff\xff",
]  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, valid: Sequence[bytes]) -> bytes:
    """One of the `valid` inputs with a few places damaged, or cut short."""
    data = bytearray(draw(st.sampled_from(list(valid))))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.sampled_from([1, 2, 4, 8, 32, 256])))
        match draw(st.sampled_from(["flip", "cut", "token", "over", "twice", "end", "bytes"])):
            case "flip" if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at:end]
            case "token":
                data[at:at] = draw(st.sampled_from(TOKENS))
            case "over":
                data[at:end] = draw(st.sampled_from(TOKENS))
            case "twice":
                data[at:at] = data[at:end]
            case "end":
                del data[at:]
            case _:
                data[at:end] = draw(st.binary(max_size=8))
    return bytes(data)


# ---- documents -------------------------------------------------------------------------------

DEEP = "@DEEP@"
"""Stands for a nesting that no encoder would write."""
JUNK: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**64), 10**400, 0.5, -0.0, 1e308, math.nan,
    math.inf, -math.inf, "", " ", "\0", "a\nb", "\x1b[31m", "\u2028", "\ud800", "é" * 300,
    "x" * 5000, "NaN", "1e999", "../../etc/passwd", "/dev/zero", "=1+1", [], {}, [[]], [None],
    {"": ""}, {"a": {"b": {"c": []}}}, [0] * 300, ["x"] * 300, DEEP,
]  # fmt: skip


@st.composite
def changed(draw: st.DrawFn, valid: Sequence[Any]) -> Any:
    """One of the `valid` documents with a few values replaced, dropped, doubled or wrapped."""
    document = {"": deepcopy(draw(st.sampled_from(list(valid))))}
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(document))
        if not places:
            break
        # Near the top a change ends the reading early: half of them are made at the leaves.
        inside, key = places[draw(st.integers(0, len(places) - 1))]
        value = inside[key]
        match draw(st.sampled_from(["junk", "junk", "drop", "rename", "wrap", "type", "twice"])):
            case "drop" if inside is not document:
                del inside[key]
            case "rename" if isinstance(inside, dict) and inside is not document:
                name = draw(st.sampled_from([*(j for j in JUNK if isinstance(j, str)), "name"]))
                inside[name] = inside.pop(key)
            case "wrap":
                inside[key] = draw(st.sampled_from([[value], {"a": value}, [value, value]]))
            case "type":
                inside[key] = _other_type(value)
            case "twice" if isinstance(inside, list):
                inside.append(deepcopy(value))
            case _:
                inside[key] = deepcopy(draw(st.sampled_from(JUNK)))
    return document[""]


def _places(inside: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(inside) if isinstance(inside, dict) else range(len(inside))
    for key in keys:
        yield inside, key
        if isinstance(inside[key], dict | list):
            yield from _places(inside[key])


def _other_type(value: Any) -> Any:
    if isinstance(value, dict):
        return list(value.items()) and [list(pair) for pair in value.items()]
    if isinstance(value, list):
        return {str(number): item for number, item in enumerate(value)}
    if isinstance(value, str):
        return len(value)
    return str(value)


def as_json(document: Any) -> bytes:
    """JSON as a stranger may write it: NaN, lone surrogates, endless nesting."""
    text = json.dumps(document).replace(json.dumps(DEEP), "[" * 1500 + "]" * 1500)
    return text.encode("utf-8", "surrogatepass")


def as_yaml(document: Any) -> bytes:
    """The same as YAML, which JSON almost is."""
    import yaml

    if DEEP in str(document):
        return as_json(document)
    text = yaml.safe_dump(document, allow_unicode=False, sort_keys=False)
    return text.encode("utf-8", "surrogatepass")
