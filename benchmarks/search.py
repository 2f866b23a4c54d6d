"""How fast neighbours are found: ``python benchmarks/search.py [--quick] [--json FILE]``.

Exact batch search over fp16 shards against faiss IndexFlatIP fed the same shards, with the floors
of the arithmetic and the disk; IVF-SQ8 with re-ranking; and whether memory stays flat. Every
measurement is a process of its own, so that its peak of memory is its own, and they take turns.

Building IVF-SQ8 of five million rows takes longer than all the rest: ``--prepare --data DIR`` makes
the vectors and the indices, goes on after a kill, and ``--approximate --data DIR`` then measures.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from audit.retrieval.folder import EmbeddingFolder
from benchmarks.common import Row, at_least, at_most, machine, report

D, K, SHARD = 512, 10, 100_000
FLAT = "faiss IndexFlatIP fed the same shards"
EXACT = "exact search"
DATA = "made-up vectors: 500 clusters along 24 directions, with noise"


def vectors(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Unit vectors in clusters of low dimension with noise, as embeddings of images are."""
    fixed = np.random.default_rng(0)
    centres = fixed.normal(size=(500, D)).astype(np.float32)
    spread = fixed.normal(size=(24, D)).astype(np.float32)
    made = rng.standard_normal((rows, D), dtype=np.float32)
    made *= 0.2
    made += rng.standard_normal((rows, 24), dtype=np.float32) @ (0.3 * spread)
    made += centres[rng.integers(len(centres), size=rows)]
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made


def make(folder: Path, rows: int, queries: int) -> None:
    """An embedding folder of `rows` vectors, and queries beside it."""
    import pandas as pd

    (folder / "img_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    rng = np.random.default_rng(1)
    for number, start in enumerate(range(0, rows, SHARD)):
        shard = vectors(rng, min(SHARD, rows - start)).astype(np.float16)
        np.save(folder / f"img_emb/img_emb_{number:04d}.npy", shard)
        frame = pd.DataFrame({"image_path": np.arange(start, start + len(shard))})
        frame.to_parquet(folder / f"metadata/metadata_{number:04d}.parquet")
    np.save(folder / "queries.npy", vectors(rng, queries))


# ---- what is measured, each in its own process ---------------------------------------------


def ours(folder: Path, queries: np.ndarray) -> Callable[[], Any]:
    """Exact search on the device here."""
    import torch

    from audit.retrieval import search

    opened = EmbeddingFolder(folder)
    # Not "auto", which takes fp32 without torch where there is little to do.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return lambda: search(opened, queries, K, device=device).ids


def fp32(folder: Path, queries: np.ndarray) -> Callable[[], Any]:
    """Exact search with products in fp32, which every CPU has."""
    from audit.retrieval import search
    from audit.retrieval.products import NumpyProduct

    opened = EmbeddingFolder(folder)
    return lambda: search(opened, queries, K, product=NumpyProduct(queries)).ids


def flat(folder: Path, queries: np.ndarray) -> Callable[[], Any]:
    """faiss: shard by shard into an index, then one search."""
    import faiss

    def work() -> Any:
        index = faiss.IndexFlatIP(D)
        for path in sorted(folder.glob("img_emb/*.npy")):
            index.add(np.load(path).astype(np.float32))
        return index.search(queries, K)[1]

    return work


def product(folder: Path, queries: np.ndarray) -> Callable[[], Any]:
    """The arithmetic alone: as many products in fp32, of one block over and over."""
    rows, block = len(EmbeddingFolder(folder)), vectors(np.random.default_rng(2), 16_384)
    out = np.empty((len(block), len(queries)), np.float32)

    def work() -> None:
        for _ in range(round(rows / len(block))):
            np.matmul(block, queries.T, out=out)

    return work


def disk(folder: Path, queries: np.ndarray) -> Callable[[], Any]:
    """The reading alone, from the disk and not from the page cache."""
    opened = EmbeddingFolder(folder)
    forget(folder)

    def work() -> None:
        for shard in opened.shards:
            for _ in opened.blocks(shard, 16_384):
                pass

    return work


def ivf(folder: Path, queries: np.ndarray) -> Callable[[], Any]:
    """IVF-SQ8 from its file, re-ranked by the full vectors."""
    from audit.retrieval import open_index

    index = open_index(folder / "image.index")
    return lambda: index.search(queries, K).ids


def build(folder: Path, queries: np.ndarray) -> Callable[[], Any]:
    """Build that index; a build that was killed goes on."""
    from audit.retrieval.build import build as built

    return lambda: built(EmbeddingFolder(folder), folder, flat_up_to=0)


WORK = {work.__name__: work for work in (ours, fp32, flat, product, disk, ivf, build)}


def forget(folder: Path) -> None:
    """Take the vectors and the index out of the page cache."""
    for path in (*folder.glob("img_emb/*.npy"), *folder.glob("*.index")):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def peak() -> float:
    """Most memory that this program has held, in MB; getrusage's would include its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def worker(name: str, folder: Path) -> None:
    """Do it once, and print seconds, processor seconds, and this process's peak memory."""
    work = WORK[name](folder, np.load(folder / "queries.npy"))
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    document: dict[str, Any] = {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "megabytes": peak(),
    }
    if isinstance(found, np.ndarray):
        np.save(folder / f"found-{name}.npy", found)
    elif found:
        document |= found
    print(json.dumps(document))


def measured(name: str, folder: Path) -> dict[str, Any]:
    """One measurement in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--worker", name, "--folder", str(folder)],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return document


# ---- the rows ------------------------------------------------------------------------------


class Turns:
    """Every competitor once in each round."""

    def __init__(self, folder: Path, names: list[str], rounds: int) -> None:
        self.runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for _ in range(rounds):
            for name in names:
                self.runs[name].append(measured(name, folder))

    def median(self, name: str, what: str) -> float:
        return statistics.median(run[what] for run in self.runs[name])

    def ratio(self, over: str, under: str, what: str) -> tuple[float, str]:
        """Median of the rounds' ratios, and their range in words."""
        pairs = zip(self.runs[over], self.runs[under], strict=True)
        ratios = [a[what] / b[what] for a, b in pairs]
        return statistics.median(ratios), f"({min(ratios):.2f} to {max(ratios):.2f})"


def exact(folder: Path, label: str, rounds: int, aims: bool) -> tuple[list[Row], float]:
    """Exact search against faiss and the floors; and our peak memory."""
    turns = Turns(folder, ["ours", "fp32", "flat", "product", "disk"], rounds)
    rows = []
    for name, said in (("ours", "exact search"), ("fp32", "exact search, products in fp32")):
        for what, clock in (("cpu", "processor seconds"), ("wall", "seconds of the clock")):
            ratio, spread = turns.ratio("flat", name, what)
            unit = f"× {spread}, {clock}"
            aimed = aims and what == "cpu" and name == "ours"
            row = at_least(f"{label}, {said}", ratio, 1, unit, FLAT) if aimed else None
            rows.append(row or Row(f"{label}, {said}", ratio, unit, FLAT))
        share, spread = turns.ratio(name, "flat", "megabytes")
        peak = f"of its peak memory {spread}"
        if aims and name == "ours":
            rows.append(at_most(f"{label}, {said}, memory", share, round(1 / 3, 3), peak, FLAT))
        else:
            rows.append(Row(f"{label}, {said}, memory", share, peak, FLAT))
        floor, spread = turns.ratio(name, "product", "cpu")
        rows.append(
            Row(f"{label}, {said}", floor, f"× the time {spread}", "the product in fp32 alone")
        )
    for name in ("ours", "fp32", "flat"):
        seconds, memory = turns.median(name, "cpu"), turns.median(name, "megabytes")
        rows.append(Row(f"{label}, {name}", seconds, f"processor seconds, {memory:.0f} MB at most"))
    for name, said in (("product", "the product in fp32 alone"), ("disk", "reading alone")):
        what = "cpu" if name == "product" else "wall"
        clock = "processor seconds" if what == "cpu" else "seconds, not from the page cache"
        rows.append(Row(f"{label}, {said}", turns.median(name, what), clock))
    one, two, other = (np.load(folder / f"found-{n}.npy") for n in ("ours", "fp32", "flat"))
    same = float((one == two).all())
    rows.append(
        at_least(f"{label}, fp32 and low precision find the same rows", same, 1, "(1: yes)")
    )
    rows.append(at_least(f"{label}, recall@10", recall(one, other), 0.999, "", FLAT))
    return rows, turns.median("ours", "megabytes")


def prepare(folder: Path) -> dict[str, Any]:
    """The truth and the index, each made once; what was said of the index when it was built."""
    if not (folder / "found-ours.npy").exists():
        measured("ours", folder)
    said = folder / "built.json"
    if not said.exists():
        (folder / "image.index").unlink(missing_ok=True)
        resumed = (folder / ".building-image").exists()
        built = measured("build", folder) | {"resumed": resumed}
        said.write_text(json.dumps(built), encoding="utf-8")
    document: dict[str, Any] = json.loads(said.read_text(encoding="utf-8"))
    return document


def approximate(folder: Path, label: str, queries: int, rounds: int) -> list[Row]:
    """IVF-SQ8 with re-ranking: once from the disk, then from the page cache."""
    built = prepare(folder)
    forget(folder)
    first = measured("ivf", folder)
    turns = Turns(folder, ["ivf", "ours"], rounds)
    true, ids = (np.load(folder / f"found-{name}.npy") for name in ("ours", "ivf"))
    kind = f"{label}, {built['kind']}, nprobe {built['nprobe']}, re-ranked"
    speed = [queries / run["wall"] for run in turns.runs["ivf"]]
    faster, spread = turns.ratio("ours", "ivf", "wall")
    rows = [
        at_least(f"{kind}, recall@10", recall(true, ids), 0.99, f"of new queries, {DATA}", EXACT),
        Row(
            kind,
            statistics.median(speed),
            f"queries/s in one batch ({min(speed):.0f} to {max(speed):.0f})",
        ),
        Row(kind, queries / first["wall"], "queries/s, nothing of it in the page cache"),
        Row(kind, faster, f"× {spread}, seconds of the clock", EXACT),
        Row(kind, turns.median("ivf", "cpu"), "processor seconds"),
        Row(kind, turns.median("ivf", "megabytes"), "MB at most, mapped files among them"),
    ]
    if not built.get("resumed"):  # else its seconds are those of the last part alone
        seconds = built["cpu"]
        rows.append(Row(f"{label}, {built['kind']}, building", seconds, "processor seconds"))
    return rows


def recall(true: np.ndarray, found: np.ndarray) -> float:
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(true, found, strict=True)]))


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast neighbours are found.")
    parser.add_argument("--quick", action="store_true", help="smaller: under two minutes")
    parser.add_argument("--json", type=Path, help="write the rows there too")
    parser.add_argument("--data", type=Path, help="make the vectors there and keep them")
    parser.add_argument("--approximate", action="store_true", help="IVF-SQ8 alone")
    parser.add_argument("--prepare", action="store_true", help="make --data and its indices, only")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        worker(given.worker, given.folder)
        return
    if given.prepare and not given.data:
        parser.error("--prepare makes what --data DIR keeps")
    described = machine()
    sizes = (50_000, 200_000) if given.quick else (1_000_000, 5_000_000)
    queries, rounds = (200, 1) if given.quick else (1000, 3)
    rows: list[Row] = []
    peaks = []
    with tempfile.TemporaryDirectory() as temporary:
        for size in sizes:
            label = f"{size:,} × {D}, {queries:,} queries"
            folder = (given.data or Path(temporary)) / f"{size}x{queries}"
            started = time.perf_counter()
            if not (folder / "queries.npy").exists():
                make(folder, size, queries)
            if given.prepare:
                prepare(folder)
                continue
            if not given.approximate:
                # Small collections weigh less than the libraries: no aim for them.
                found, most = exact(folder, label, rounds, aims=not given.quick)
                rows += found
                peaks.append(most)
            rows += approximate(folder, label, queries, rounds)
            print(f"{label}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    if given.prepare:
        return
    if peaks:
        growth = peaks[1] / peaks[0]
        grown = f"{sizes[0]:,} rows"
        rows.append(at_most(f"memory at {sizes[1]:,} rows", growth, 1.1, "×", grown))
    print(report(rows, described, given.json))


if __name__ == "__main__":
    main()
