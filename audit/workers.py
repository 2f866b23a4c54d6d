"""One process a device over the same plan; any of them may die.

A worker stores its images itself, under their hashes, and hands the rows back; it gets batches one
by one, so a fast device makes more of them. What a dead worker had not handed back, others make.
"""

from __future__ import annotations

import multiprocessing
import queue
import signal
import sys
import threading
import time
from collections import Counter, deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any

from .energy import Meter
from .errors import AuditError, Incomplete
from .generation import Job
from .inputs import Inputs
from .plan import Placed
from .spec import Spec
from .store import Run
from .writer import Row, Writer

TRIES = 2
"""A batch on which so many workers died is left out and named at the end."""


@dataclass
class _Worker:
    """The parent's side of a worker.

    Attributes:
        given: batches that are not handed back yet.
        at: the batch that it is making.
    """

    device: str
    process: Any
    pipe: Connection
    given: list[int] = field(default_factory=list)
    at: int | None = None
    last_words: str = ""


def generate_on_devices(job: Job, inputs: Inputs) -> None:
    """Make the job's batches on all devices of the spec.

    Raises:
        Incomplete: all workers died, or :data:`TRIES` of them on one batch.
        AuditError: a worker cannot load the model or make a request.
    """
    workers = [_start(job, device, inputs) for device in job.spec.devices]
    try:
        _Crew(job, workers).work()
    finally:
        for worker in workers:
            worker.pipe.close()
            worker.process.terminate()
        for worker in workers:
            worker.process.join()
            worker.process.close()


class _Crew:
    def __init__(self, job: Job, workers: list[_Worker]) -> None:
        self.job, self.alive = job, workers
        self.left = deque(job.batches)
        self.meter: Meter | None = None
        self.deaths: Counter[int] = Counter()
        self.reports: dict[int, str] = {}  # batch → why it is left out
        self.ends: list[str] = []

    def work(self) -> None:
        while self.left or any(worker.given for worker in self.alive):
            if not self.alive:
                raise Incomplete(
                    f"every worker ended: {'; '.join(dict.fromkeys(self.ends))}; "
                    "the same command goes on from here"
                )
            for pipe in wait([worker.pipe for worker in self.alive]):
                worker = next(w for w in self.alive if w.pipe is pipe)
                try:
                    message = worker.pipe.recv()
                except (EOFError, OSError):  # it ended, perhaps in the middle of a message
                    self._bury(worker)
                else:
                    self._hear(worker, *message)
        if self.reports:
            raise Incomplete(
                f"not made: {'; '.join(self.reports.values())}; "
                "the same command tries again what is left"
            )

    def _hear(self, worker: _Worker, kind: str, content: Any) -> None:
        if kind == "ready":
            described, uuid = content
            self.job.made_by(described)
            known = self.meter.gpus if self.meter else []
            if self.meter is None or (uuid and uuid not in known):
                self._measure()
                self.meter = Meter([*known, *([uuid] if uuid else [])], self.job.watts)
            self._give(worker)
            self._give(worker)  # the next is at hand when the first is made
        elif kind == "at":
            worker.at = content
            self._give(worker)
        elif kind == "made":
            number, rows, processor, waited = content
            self.job.finish(number, rows)
            worker.given.remove(number)
            self._measure(processor, len(rows), waited)
            self._fill(worker)  # a dead one's batches came when it had begun all of its own
        elif kind == "stopped":
            worker.last_words = content
        else:
            raise AuditError(content)

    def _measure(self, processor: float = 0.0, images: int = 0, waited: float = 0.0) -> None:
        if self.meter is not None:
            usage = self.meter.lap(processor)
            self.job.ledger.add("generate", usage, images, writer_wait_seconds=waited)

    def _give(self, worker: _Worker) -> None:
        if self.left:
            number = self.left.popleft()
            worker.given.append(number)
            with suppress(OSError):  # it is gone, as the next reading of its pipe will tell
                worker.pipe.send((number, self.job.batches[number]))

    def _fill(self, worker: _Worker) -> None:
        while self.left and len(worker.given) < 2:
            self._give(worker)

    def _bury(self, worker: _Worker) -> None:
        self.alive.remove(worker)
        worker.process.join()
        why = worker.last_words or f"ended with {_exit(worker.process.exitcode)}"
        self.ends.append(f"{worker.device}: {why}")
        again = sorted(worker.given)
        if worker.at in again:
            self.deaths[worker.at] += 1
            if self.deaths[worker.at] >= TRIES:
                again.remove(worker.at)
                self.reports[worker.at] = (
                    f"batch {worker.at}, on which {TRIES} workers ended, {why}"
                )
        self.left.extendleft(reversed(again))
        if self.alive:
            print(
                f"t2i-audit: worker {worker.device}: {why}; the others take its {len(again)} "
                "batches",
                file=sys.stderr,
            )
        for other in self.alive:
            self._fill(other)


def _exit(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _start(job: Job, device: str, inputs: Inputs) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_work,
        args=(job.spec, device, job.store.path, inputs.files, job.threads, theirs),
        name=f"t2i-audit {device}",
        daemon=True,
    )
    # A new process would run the caller's main module again: a notebook, an unguarded script.
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        process.start()
    finally:
        sys.modules["__main__"] = main
    theirs.close()
    return _Worker(device, process, ours)


def _work(
    spec: Spec, device: str, run: Path, files: dict[str, Path], threads: int, pipe: Connection
) -> None:
    """The worker: batches from the pipe, rows into it, until it is closed."""
    # Ctrl-C reaches the whole group; the parent says when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    lock = threading.Lock()

    def send(kind: str, content: Any) -> None:
        with lock:
            pipe.send((kind, content))

    try:
        _make(spec, device, run, files, threads, pipe, send)
    except Incomplete as error:
        send("stopped", str(error))
    except AuditError as error:
        send("error", str(error))
    except (BrokenPipeError, ConnectionResetError):
        pass  # the parent is gone
    except Exception as error:
        line = " ".join(str(error).split())[:300]
        send("stopped", f"{type(error).__name__}: {line}")
    pipe.close()


def _make(
    spec: Spec,
    device: str,
    run: Path,
    files: dict[str, Path],
    threads: int,
    pipe: Connection,
    send: Any,
) -> None:
    import torch

    from .backends import open_backend
    from .energy import gpu_uuid

    torch.set_num_threads(threads)
    backend = open_backend(spec.model, device, spec.dtype, spec.backend)
    backend.inputs = Inputs(files)
    send("ready", (dict(backend.describe()), gpu_uuid(getattr(backend, "device", "cpu"))))
    # The pipe is always read, so that neither side can wait for the other for ever.
    batches: queue.SimpleQueue[tuple[int, list[Placed]] | None] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, batches), daemon=True).start()
    sent = [time.process_time(), 0.0]

    def finish(number: int, rows: list[Row]) -> None:
        before, sent[:] = list(sent), [time.process_time(), writer.waited]
        send("made", (number, rows, sent[0] - before[0], sent[1] - before[1]))

    def wake(written: Future[None]) -> None:
        if not written.cancelled() and written.exception() is not None:
            batches.put(None)  # a worker that cannot write must not wait for more

    with Writer(Run(run).save_image, finish, spec.batch_size) as writer:
        while (batch := batches.get()) is not None:
            number, members = batch
            send("at", number)
            results = backend.generate([member.request for member in members], spec.batch_size)
            writer.put(number, members, results).add_done_callback(wake)


def _receive(pipe: Connection, batches: queue.SimpleQueue[Any]) -> None:
    with suppress(EOFError, OSError):
        while True:
            batches.put(pipe.recv())
    batches.put(None)
