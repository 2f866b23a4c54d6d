"""A large file is hashed once, until it changes."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

from audit.backends import hashes
from audit.backends.checkpoints import (
    sha256_file,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("T2I_AUDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"a" * hashes.WORTH_REMEMBERING)
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    seen: list[Path] = []
    digest = hashes._digest
    monkeypatch.setattr(hashes, "_digest", lambda path: seen.append(path) or digest(path))
    return seen


def test_a_large_file_is_read_once(large: Path, reads: list[Path]) -> None:
    first = sha256_file(large)
    assert first == "9bc1b2a288b26af7257a36277ae3816a7d4f16e89c1e7e77d0a5c48bad62b360"
    assert sha256_file(large) == first
    assert reads == [large]


def test_a_changed_file_of_the_same_size_is_read_anew(large: Path, reads: list[Path]) -> None:
    before = large.stat()
    first = sha256_file(large)
    large.write_bytes(b"b" * hashes.WORTH_REMEMBERING)
    # Even with its modification time set back.
    os.utime(large, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert sha256_file(large) != first
    assert len(reads) == 2


def test_a_file_put_in_anothers_place_is_read_anew(
    large: Path, tmp_path: Path, reads: list[Path]
) -> None:
    first = sha256_file(large)
    other = tmp_path / "other"
    other.write_bytes(b"c" * hashes.WORTH_REMEMBERING)
    os.replace(other, large)
    assert sha256_file(large) != first
    assert len(reads) == 2


@pytest.mark.parametrize(
    "damage",
    [
        b"\xff\xfe\x00garbage\n",
        b'{"a": 1}\n',
        b'["k", "not a digest"]\n',
        b"[1, 2]\nnull\n",
        b'["cut o',
    ],
)
def test_a_corrupt_cache_is_ignored_and_written_anew(
    large: Path, cache: Path, reads: list[Path], damage: bytes
) -> None:
    first = sha256_file(large)
    file = cache / "sha256.jsonl"
    file.write_bytes(damage + b"\n" + file.read_bytes())
    assert sha256_file(large) == first
    lines = file.read_text().splitlines()
    assert len(lines) == 1 and json.loads(lines[0])[1] == first
    assert reads == [large]
    assert [p.name for p in cache.iterdir()] == ["sha256.jsonl"]


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = sha256_file(large)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("T2I_AUDIT_CACHE", str(tmp_path / "file" / "below"))
    assert sha256_file(large) == expected


def test_processes_share_the_cache_without_harm(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from multiprocessing import get_context

    # A new process runs the main module again, which a Streamlit test may have left behind.
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    paths = []
    for index in range(12):
        path = tmp_path / f"{index}.safetensors"
        path.write_bytes(bytes([index]) * hashes.WORTH_REMEMBERING)
        paths.append(path)
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(sha256_file, [*paths, *paths[::-1], *paths]))
    assert found[:12] == found[12:24][::-1] == found[24:]
    assert len(set(found)) == 12
    for line in (cache / "sha256.jsonl").read_text().splitlines():
        key, digest = json.loads(line)
        assert digest == found[int(Path(key.split(":", 5)[-1]).stem)]
