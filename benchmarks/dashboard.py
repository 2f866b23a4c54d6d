"""How fast the dashboard answers: ``python benchmarks/dashboard.py [--quick] [--json FILE]``.

A made-up run of a million images with forty scores. The pages' own scripts are run whole, without a
browser, in a process that holds the run, and timed from the change of a filter to the last element;
the real server is started beside it. And the same questions asked the plain way, of one pandas
table that holds the whole run. Times are processor time over all threads, which on a machine of
one's own is no less than the clock shows; what the clock showed here is said beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import dashboard_run
from benchmarks.common import Row, at_most, machine, report

ROOT = Path(__file__).resolve().parents[1]
QUICK, FULL = (40_000, 5), (1_000_000, 15)
"""Images, and how often each question is asked."""
PAGE_S, STEP_MS, MOVE_MS, MEMORY_MB, START_S = 2, 300, 200, 1000, 2
OTHER: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("bias", "prompt", {}),
    ("languages", "language", {}),
    ("side_by_side", "of", {"vary": "Languages"}),
    ("filters", "t_safety_checker", {}),
)
"""Pages with a question of their own: what is chosen anew there, and the address."""
SCORE, SECOND, THIRD = "clip_alignment", "faces_age", "skin_tone_ita"


def served(path: Path, digests: list[str]) -> dict[str, Any]:
    """The real server: seconds to the first byte, its modules, milliseconds of each thumbnail."""
    code = (
        "import sys; from pathlib import Path; from dashboard.server import serve; "
        "serve([Path(sys.argv[1])], 0)"
    )
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().split("127.0.0.1:")[1].split()[0])
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/")
        assert connection.getresponse().read()
        wall = time.perf_counter() - start
        # The fields after the name, which may hold anything.
        spent = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        first = sum(map(int, spent[11:13])) / os.sysconf("SC_CLK_TCK")
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        times = []
        for digest in digests:
            dashboard_run.picture(path, digest)
            asked = time.perf_counter()
            connection.request("GET", f"/thumb/0/{digest}")
            answer = connection.getresponse()
            assert answer.read() and answer.status == 200, answer.status
            times.append(1000 * (time.perf_counter() - asked))
        return {"first byte": [first, wall], "torch": float("libtorch" in maps), "thumbs": times}
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def apart(how: str, path: Path, rounds: int) -> dict[str, Any]:
    """In a process of its own: :func:`questions` by ``--ask``, :func:`plain` by ``--plain``."""
    done = subprocess.run(
        [sys.executable, __file__, how, str(path), "--rounds", str(rounds)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def questions(path: Path, rounds: int) -> dict[str, Any]:
    """Milliseconds of each question, one list a question; seconds and MB of the rest."""
    from streamlit.testing.v1 import AppTest

    from dashboard import images, runs

    runs.show([path])
    run = runs.shown()[path.name]
    found: dict[str, Any] = {"index": spent(run.prepare)}

    def page(name: str, **parameters: Any) -> AppTest:
        test = AppTest.from_string(
            f"from dashboard import parts, runs\nfrom dashboard.views import {name}\n"
            f"parts.choose_run(list(runs.shown()))\n{name}.page()",
            default_timeout=300,
        )
        for key, value in parameters.items():
            test.query_params[key] = value
        return test

    def drawn(test: Any) -> None:
        test.run()
        assert not test.exception, test.exception

    overview = page("overview")
    found["first overview"] = spent(lambda: drawn(overview))
    found["overview"] = [spent(lambda: drawn(overview)) for _ in range(rounds)]
    found["first gallery"] = spent(lambda: drawn(page("gallery")))

    filters = page("gallery", scores=[SCORE, SECOND, THIRD])
    filters.run()
    assert not filters.exception, filters.exception

    def filtered(number: int) -> None:
        low = 0.2 + number / 100
        filters.slider(key=f"range_{SCORE}").set_range(low, 0.8)
        filters.slider(key=f"range_{SECOND}").set_range(0.3, 0.9)

    def sorted_by(number: int) -> None:
        names = list(dashboard_run.SCORES["faces"])
        filters.selectbox(key="sort").select(f"faces_{names[number % len(names)]}")

    paged = page("gallery", probe="demographics", sort=SCORE)
    paged.run()
    assert not paged.exception, paged.exception

    def turned(number: int) -> None:
        paged.query_params["page"] = str(2 + 37 * number)

    moved = page("gallery", probe="safety_filters", scores="safety_checker_concept_00")
    moved.run()

    def threshold(number: int) -> None:
        moved.slider(key="range_safety_checker_concept_00").set_range(0.1 + number / 50, 1.0)

    for name, test, change in (
        ("filter", filters, filtered),
        ("sort", filters, sorted_by),
        ("page", paged, turned),
        ("threshold", moved, threshold),
    ):
        found[name] = timed(rounds, lambda i, t=test, c=change: (c(i), t)[1])
    found["counts"] = counted(run, rounds)
    for name, key, parameters in OTHER:
        found[f"first {name}"] = spent(lambda n=name, p=parameters: drawn(page(n, **p)))
        test = page(name, **parameters)
        drawn(test)
        found[name] = timed(rounds, lambda i, t=test, k=key: (chosen(t, k, i), t)[1])

    digests = re.findall(r"/thumb/0/([0-9a-f]{64})", body(paged))[:40]
    known = images.known_images(run)
    found["lookup"] = [spent(lambda digest=digest: known.get(digest)) for digest in digests]
    found["memory"], found["digests"] = resident(), digests
    return found


def chosen(test: Any, key: str, number: int) -> None:
    """Another value of a select box or a slider."""
    if key in {box.key for box in test.selectbox}:
        box = test.selectbox(key=key)
        box.select(box.options[number % len(box.options)])
    else:
        test.slider(key=key).set_value(0.3 + number / 50)


def spent(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of the processor and of the clock."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.process_time() - processor, time.perf_counter() - clock


def timed(rounds: int, change: Callable[[int], Any]) -> list[tuple[float, float]]:
    """Seconds from a change to the last element of the page; the first is not counted."""
    times = []
    for number in range(rounds + 1):
        test = change(number)
        times.append(spent(test.run))
        assert not test.exception, test.exception
    return times[1:]


def counted(run: Any, rounds: int) -> list[tuple[float, float]]:
    """A threshold moved over a fifth of the images' scores: the confusion matrix alone."""
    from dashboard.table import Table

    def ask(threshold: float) -> None:
        with run.connect() as database:
            table = Table(database, "safety_filters")
            score, truth = table.column("safety_checker_concept_00"), table.column("restricted")
            table.ask(
                f"SELECT {truth.sql} AS truth, {score.sql} >= {threshold} AS flagged, count(*)",
                [],
                {score.view, truth.view},
                "GROUP BY 1, 2",
            )

    return [spent(lambda n=n: ask(0.1 + n / 50)) for n in range(rounds + 1)][1:]


def plain(path: Path, rounds: int) -> dict[str, Any]:
    """The same questions in pandas, over one table of the whole run; seconds to load it, MB."""
    from audit.store import Run

    run = Run.open(path)
    start = time.perf_counter()
    table = run.read_table("plan").merge(run.read_table("records"), on="request", how="left")
    for detector in dashboard_run.SCORES:
        frame = run.read_table(f"detections/{detector}").drop(columns="image")
        frame.columns = [n if n == "request" else f"{detector}_{n}" for n in frame.columns]
        table = table.merge(frame, on="request", how="left")
    uses = {
        probe: run.read_table(f"uses/{probe}").merge(table, on="request", how="left")
        for probe in ("demographics", "safety_filters")
    }
    found: dict[str, Any] = {"load": time.perf_counter() - start}

    def filtered(number: int) -> Any:
        kept = table[table[SCORE].between(0.2 + number / 100, 0.8)]
        kept = kept[kept[SECOND].between(0.3, 0.9)]
        return kept.outcome.value_counts(), kept.sort_values(["batch", "slot"]).head(60)

    def sorted_by(number: int) -> Any:
        name = f"faces_{dashboard_run.SCORES['faces'][number % 9]}"
        return filtered(0)[0], table.sort_values(name, ascending=False).head(60)

    def turned(number: int) -> Any:
        place = 60 * (1 + 37 * number)
        rows = uses["demographics"].sort_values(SCORE, ascending=False)
        return rows.outcome.value_counts(), rows.iloc[place : place + 60]

    def threshold(number: int) -> Any:
        rows = uses["safety_filters"]
        kept = rows[rows.safety_checker_concept_00 >= 0.1 + number / 50]
        return kept.outcome.value_counts(), kept.head(60)

    questions_ = {"filter": filtered, "sort": sorted_by, "page": turned, "threshold": threshold}
    for name, question in questions_.items():
        found[name] = [spent(lambda n=n, q=question: q(n)) for n in range(rounds + 1)][1:]
    found["memory"] = resident()
    return found


def body(test: Any) -> str:
    return "\n".join(element.proto.body for element in test.get("html"))


def resident() -> float:
    """MB of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def rows_of(
    images: int, server: dict[str, Any], ours: dict[str, Any], other: dict[str, Any]
) -> list[Row]:
    """The table."""

    def middle(times: Any, place: int) -> float:
        rows = times if isinstance(times[0], list) else [times]
        return statistics.median(row[place] for row in rows)

    def unit(times: Any, unit: str) -> str:
        clock = middle(times, 1) * (1000 if unit == "ms" else 1)
        return f"{unit} ({clock:.3g} by the clock)"

    def asked_in(name: str, what: str, aim: float, key: str = "") -> Row:
        plain_ms = 1000 * middle(other[key or name], 0)
        return at_most(
            what,
            1000 * middle(ours[name], 0),
            aim,
            unit(ours[name], "ms"),
            f"pandas, no page drawn: {plain_ms:.0f} ms",
        )

    def drawn_in(name: str, what: str, aim: float) -> Row:
        first = f"its first page: {middle(ours[f'first {name}'], 0):.2g} s"
        return at_most(what, 1000 * middle(ours[name], 0), aim, unit(ours[name], "ms"), first)

    def whole(name: str, what: str, aim: float, against: str = "") -> Row:
        return at_most(what, middle(ours[name], 0), aim, unit(ours[name], "s"), against)

    loading = f"pandas loads the run in {other['load']:.0f} s by the clock"
    return [
        at_most(
            "process start to first byte",
            server["first byte"][0],
            START_S,
            unit(server["first byte"], "s"),
        ),
        at_most("torch in the server's process", server["torch"], 0, "(0: no)"),
        whole("first overview", "first page: overview", PAGE_S, loading),
        whole("overview", "overview again", PAGE_S),
        whole("first gallery", "first gallery page", PAGE_S),
        asked_in("filter", "filter by the ranges of three scores, page drawn", STEP_MS),
        asked_in("sort", "sort by another score, page drawn", STEP_MS),
        asked_in("page", "another gallery page of a sorted probe, drawn", STEP_MS),
        asked_in("threshold", "threshold moved, counts and page drawn", MOVE_MS),
        asked_in("counts", "threshold moved, confusion matrix alone", MOVE_MS, "threshold"),
        drawn_in("bias", "bias: another prompt, drawn", STEP_MS),
        drawn_in("languages", "languages: another language's prompts, drawn", STEP_MS),
        drawn_in("side_by_side", "side by side: another prompt in five languages, drawn", STEP_MS),
        drawn_in(
            "filters", "filters: threshold moved, matrix, disparity and curves drawn", MOVE_MS
        ),
        Row(
            "whether an image may be sent, and how",
            1000 * middle(ours["lookup"], 0),
            unit(ours["lookup"], "ms"),
        ),
        Row(
            "a thumbnail over HTTP",
            statistics.median(server["thumbs"]),
            f"ms by the clock (median of {len(server['thumbs'])})",
        ),
        at_most(
            "memory held after all of it",
            ours["memory"],
            MEMORY_MB,
            "MB",
            f"pandas: {other['memory']:.0f} MB",
        ),
        Row(
            f"index of {images:,} images, once", middle(ours["index"], 0), unit(ours["index"], "s")
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer images, in under two minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--data", type=Path, metavar="DIR", help="keep the run and its index there")
    parser.add_argument("--images", type=int, help="another number of images")
    parser.add_argument("--rounds", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--ask", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask or options.plain:
        work = questions if options.ask else plain
        print(json.dumps(work(options.ask or options.plain, options.rounds)))
        return
    images, rounds = QUICK if options.quick else FULL
    images = options.images or images
    described = {**machine(), "images": images}
    with tempfile.TemporaryDirectory() as folder:
        data = (options.data or Path(folder)).resolve()
        os.environ["T2I_AUDIT_CACHE"] = str(data / "cache")
        path = dashboard_run.build(data, images)
        ours = apart("--ask", path, rounds)
        other = apart("--plain", path, max(3, rounds // 3))
        rows = rows_of(images, served(path, ours["digests"]), ours, other)
    print(report(rows, described, options.json))


if __name__ == "__main__":
    main()
