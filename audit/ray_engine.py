"""The plan on a Ray cluster: batches go out to actors, encoded images and rows come back.

The machines need no common file system, but t2i-audit, and the model under the same name. Ray makes
a batch again when the actor or the machine that had it is gone.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from .energy import Meter, gpu_uuid
from .errors import AuditError, Incomplete
from .generation import Job
from .inputs import Inputs
from .spec import Spec
from .store import encode
from .writer import row

TRIES = 5
"""How often a batch may end its actor, or be lost with a machine, before the run stops."""
BLOCKS = 4096
"""Pieces at most into which Ray Data cuts the plan."""


class Tries:
    """An actor on the driver's machine that counts how often each batch was begun."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, number: int) -> int:
        """How often the batch has been begun before."""
        self._begun[number] += 1
        return self._begun[number] - 1


class Maker:
    """An actor: the backend on one device of the cluster.

    Args:
        spec: model, options, precision, batch size.
        files: SHA-256 → suffix and content of the pictures that requests start from.
        threads: of torch on the CPU.
        device: ``cuda`` for the GPU that Ray gave this actor, or ``cpu``.
        watts: declared, where no energy can be read.
        tries: the handle of a :class:`Tries`; Ray itself would try for ever.
    """

    def __init__(
        self,
        spec: Spec,
        files: dict[str, tuple[str, bytes]],
        threads: int,
        device: str,
        watts: float | None,
        tries: Any,
    ) -> None:
        import torch

        from .backends import open_backend

        torch.set_num_threads(threads)
        self._tries = tries
        self._spec, self._encoders = spec, ThreadPoolExecutor(os.cpu_count() or 1)
        self._folder = tempfile.TemporaryDirectory()
        inputs = Inputs()
        for digest, (suffix, data) in files.items():
            inputs.files[digest] = Path(self._folder.name) / f"{digest}{suffix}"
            inputs.files[digest].write_bytes(data)
        self._backend = open_backend(spec.model, device, spec.dtype, spec.backend)
        self._backend.inputs = inputs
        self._described = json.dumps(dict(self._backend.describe()))
        uuid = gpu_uuid(getattr(self._backend, "device", "cpu"))
        # Several actors on a machine would each count its whole CPU.
        self._meter = Meter([uuid] if uuid else [], watts, package=False)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One batch of the plan: a number and its pickled requests in, images and rows out.

        Raises:
            Incomplete: the batch has ended :data:`TRIES` actors.
        """
        import pickle

        import ray

        self._meter.lap()  # the wait for a batch is nobody's
        number, members = pickle.loads(batch["members"][0].as_py())
        if ray.get(self._tries.begin.remote(number)) >= TRIES:
            raise Incomplete(
                f"not made: batch {number}, on which {TRIES} actors ended; "
                "the same command tries again what is left"
            )
        size = self._spec.batch_size
        results = self._backend.generate([member.request for member in members], size)
        images = [result.image for result in results]
        encoded = list(self._encoders.map(lambda image: image and encode(image), images))
        rows = [row(member, result, size) for member, result in zip(members, results, strict=True)]
        made = pickle.dumps((number, rows, encoded, self._described, self._meter.lap()))
        return pa.table({"made": pa.array([made], pa.large_binary())})


def generate_on_ray(job: Job, inputs: Inputs) -> None:
    """Make the job's batches on the cluster that ``RAY_ADDRESS`` names, or on this machine.

    Raises:
        AuditError: Ray is not installed, or an actor cannot load the model or make a request.
        Incomplete: a batch failed :data:`TRIES` times, or the cluster is gone.
    """
    try:
        import ray
        import ray.data
        from ray.exceptions import RayError
    except ImportError as error:
        raise AuditError("--engine ray needs Ray: pip install 't2i-audit[ray]'") from error
    started = not ray.is_initialized()
    if started:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # errors reach us as exceptions
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        _generate(job, inputs)
    except RayError as error:
        raise _said(error) from error
    finally:
        if started:
            ray.shutdown()


def _generate(job: Job, inputs: Inputs) -> None:
    import pickle

    import ray
    import ray.data
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    actors = gpus or max(1, int(resources.get("CPU", 1)) // job.threads)
    actors = min(actors, len(job.batches))
    device = "cuda" if gpus else "cpu"
    files = {digest: (path.suffix, path.read_bytes()) for digest, path in inputs.files.items()}
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    tries = ray.remote(num_cpus=0)(Tries).options(scheduling_strategy=here).remote()
    plan = [{"members": pickle.dumps((number, m))} for number, m in job.batches.items()]
    made = ray.data.from_items(plan, override_num_blocks=min(len(plan), BLOCKS)).map_batches(
        Maker,
        fn_constructor_args=(job.spec, files, job.threads, device, job.watts, tries),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_gpus=1 if gpus else None,
        num_cpus=None if gpus else job.threads,
    )
    machines: set[str] = set()
    for batch in made.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=2):
        number, rows, encoded, described, usage = pickle.loads(batch["made"][0].as_py())
        if described not in machines:
            machines.add(described)
            job.made_by(json.loads(described))
        for line, image in zip(rows, encoded, strict=True):
            line["image"] = image and job.store.store_image(image)
        job.finish(number, rows)
        job.ledger.add("generate", usage, len(rows))


def _said(error: Exception) -> AuditError:
    """What an actor or Ray said, in one line."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, AuditError):
            return type(cause)(str(cause))
        cause = cause.__cause__ or getattr(cause, "cause", None)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return Incomplete(
        f"Ray: {type(error).__name__}: {(lines or ['no reason given'])[-1][:300]}; "
        "the same command goes on from here"
    )
