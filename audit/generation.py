"""The generate step: whole batches of the plan, here, in one process a device, or on Ray.

Wherever a batch is made, its requests, slots and shape come from the plan, and only this process
writes shards and journal.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd
from tqdm import tqdm

from .backends.base import Backend
from .energy import Ledger, Meter, gpu_uuid
from .errors import AuditError
from .estimate import BYTES_PER_PIXEL
from .plan import Placed
from .spec import Spec
from .store import Run
from .writer import Row, Writer

COMPACT_EVERY = 256
"""Shards of records, of a batch each, that are merged into one while a run goes on."""
COMPACT_AT_END = 32
"""As many are merged at a step's end; fewer are left."""

Finish = Callable[[int, list[Row]], None]


@dataclass(frozen=True)
class Job:
    """What is left to be made, and what every process that makes it must know.

    Attributes:
        spec: model, options, precision, batch size.
        batches: batch number → its requests in the order of their slots.
        threads: of torch on the CPU. They change the low bits of images, so a run has one number.
        finish: stores the rows of a batch, whose images are stored, as a shard.
    """

    spec: Spec
    store: Run
    batches: Mapping[int, list[Placed]]
    threads: int
    ledger: Ledger
    finish: Finish

    @property
    def watts(self) -> float | None:
        """Declared for where no energy can be read."""
        return self.ledger.declared.get("watts")

    def made_by(self, described: Mapping[str, Any]) -> None:
        """Note a process elsewhere that makes images, as its backend describes itself.

        Raises:
            AuditError: it has other weights than the model that was planned for.
        """
        described = json.loads(json.dumps(dict(described)))
        info = self.store.info
        if described.get("weights") != info["backend"].get("weights"):
            raise AuditError(
                f"'{self.spec.model}' has other weights on another machine: "
                "copy the model there again"
            )
        devices = {*info.get("devices", ()), str(described.get("device", ""))} - {""}
        self.store.write_json("run.json", info | {"backend": described, "devices": sorted(devices)})


def generate(
    store: Run, spec: Spec, backend: Backend, plan: Sequence[Placed], ledger: Ledger
) -> None:
    """Make every image of the plan that has no record yet.

    Args:
        plan: whole batches.

    Raises:
        Incomplete: a disk is full, a server or device is gone, a worker died; what was made is
            kept, and the same command goes on.
    """
    records = store.read_table("records", ["request"])
    done = set() if records.empty else set(records.request)
    left = [placed for placed in plan if placed.request.id not in done]
    begun = {placed.batch for placed in left}
    batches: dict[int, list[Placed]] = {}
    for placed in sorted(plan, key=lambda placed: (placed.batch, placed.slot)):
        if placed.batch in begun:
            batches.setdefault(placed.batch, []).append(placed)
    wanted = len(plan)
    warn_of_space(store, left)
    with progress("generate", wanted, wanted - len(left)) as bar:

        def finish(number: int, rows: list[Row]) -> None:
            rows = [row for row in rows if row["request"] not in done]
            store.add_part("records", pd.DataFrame(rows))
            store.compact("records", COMPACT_EVERY)
            bar.update(len(rows))

        if batches:
            threads = store.info["threads"]
            job = Job(spec, store, batches, threads, ledger, finish)
            with ledger.step("generate"):
                if spec.engine == "ray":
                    from .ray_engine import generate_on_ray

                    generate_on_ray(job, backend.inputs)
                elif spec.devices:
                    from .workers import generate_on_devices

                    generate_on_devices(job, backend.inputs)
                else:
                    _here(job, backend)
    store.compact("records", COMPACT_AT_END)


def _here(job: Job, backend: Backend) -> None:
    uuid = gpu_uuid(getattr(backend, "device", "cpu"))
    meter = Meter([uuid] if uuid else [], job.watts)
    with Writer(job.store.save_image, job.finish, job.spec.batch_size) as writer:
        for number, members in job.batches.items():
            requests = [member.request for member in members]
            results = backend.generate(requests, job.spec.batch_size)
            waited = writer.waited
            writer.put(number, members, results)
            job.ledger.add(
                "generate",
                meter.lap(),
                len(members),
                writer_wait_seconds=writer.waited - waited,
            )


def warn_of_space(store: Run, left: Sequence[Placed]) -> None:
    """Say in one line when the disk will not hold what is left to be made."""
    pixels = sum(p.request.deliver_size**2 or p.request.height * p.request.width for p in left)
    needed, free = pixels * BYTES_PER_PIXEL, shutil.disk_usage(store.path).free
    if needed > free:
        print(
            f"t2i-audit: {len(left)} images need about {needed / 1e6:,.0f} MB and the disk of "
            f"{store.path} has {free / 1e6:,.0f} MB free; the run will stop when it is full",
            file=sys.stderr,
        )


@contextmanager
def progress(step: str, total: int, done: int) -> Iterator[Any]:
    """Rate and time left on stderr; what an earlier run did counts as done but not as speed."""
    with tqdm(
        total=total,
        initial=done,
        desc=step,
        unit="image",
        file=sys.stderr,
        mininterval=0.5,
        smoothing=0.1,
        disable=total == 0 or done == total,
    ) as bar:
        yield bar
