"""A plan and a run folder for tests of the generate step alone."""

from __future__ import annotations

import json
from pathlib import Path

from audit.backends import Backend, open_backend
from audit.energy import Ledger
from audit.inputs import Inputs
from audit.plan import Placed, Request, place
from audit.spec import Spec
from audit.store import Run

BATCH = 3


def planned(images: int = 14, steps: int = 2) -> list[Placed]:
    """Requests in batches of :data:`BATCH`, the last one not full."""
    prompts = ("a nurse", "a doctor", "a red car")
    return place(
        [
            Request(prompt=prompts[i % 3], seed=i, steps=steps, guidance=3.0, height=32, width=32)
            for i in range(images)
        ],
        BATCH,
    )


def started(spec: Spec, path: Path) -> tuple[Run, Backend]:
    """A run that the generate step can go on with: one thread, the model's weights noted."""
    import torch

    torch.set_num_threads(1)
    backend = open_backend(spec.model, "cpu", spec.dtype, spec.backend)
    backend.inputs = Inputs()
    store = Run.create(path)
    described = json.loads(json.dumps(dict(backend.describe())))
    store.write_json(
        "run.json", {"schema_version": 1, "model": spec.model, "backend": described, "threads": 1}
    )
    return store, backend


def ledger(store: Run, **declared: object) -> Ledger:
    return Ledger(store, declared)


def hashes(store: Run) -> dict[str, str]:
    """Request → image of the records, each there once."""
    records = store.read_table("records")
    if records.empty:
        return {}
    assert records.request.is_unique
    return dict(zip(records.request, records.image, strict=True))
