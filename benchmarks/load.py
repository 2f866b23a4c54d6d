"""Whether a run's cost grows with its images and its memory does not: store, detector, analysis.

    python benchmarks/load.py [--quick] [--json FILE]

Two runs of one audit, the second ten times as large, each in a process of its own: the engine's own
steps with a backend that hands out 64×64 pictures of a small set, a detector that takes an image's
mean colours, and the probe ``demographics``. What is measured is the toolkit, not a model.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import Row, at_most, machine, report

PICTURES = 64
BATCH = 16
PROMPTS = 20
STEPS = ("plan", "generate", "detect", "analyse")


class Drawer:
    """A backend whose pictures are drawn beforehand; each request gets one of them."""

    device = "cpu"

    def __init__(self) -> None:
        import numpy as np
        from PIL import Image

        dice = np.random.default_rng(0)
        coarse = dice.integers(0, 255, (PICTURES, 8, 8, 3), dtype=np.uint8)
        self.pictures = [
            Image.fromarray(one).resize((64, 64), Image.Resampling.BICUBIC) for one in coarse
        ]

    def describe(self) -> Mapping[str, Any]:
        return {"backend": "drawn", "weights": {}, "device": "cpu"}

    def generate(self, requests: Sequence[Any], batch_size: int) -> list[Any]:
        from audit.backends.base import Result

        return [
            Result(self.pictures[int(r.id, 16) % PICTURES], telemetry={"seconds": 0.0})
            for r in requests
        ]


class Colours:
    """A detector in the place of CLIP: mean colours as the scores of the attribute's two labels."""

    def __init__(self, study: Any) -> None:
        pass

    @classmethod
    def unavailable(cls, study: Any) -> str | None:
        return None

    def describe(self) -> Mapping[str, Any]:
        return {"version": "1", "weights": {}, "known_error": None}

    def detect(self, batch: Any) -> Mapping[str, Sequence[Any]]:
        import numpy as np

        means = np.array([np.asarray(image).mean((0, 1)) for image in batch.images]) / 255
        return {
            "gender_female": means[:, 0].tolist(),
            "gender_male": means[:, 2].tolist(),
            "alignment": means[:, 1].tolist(),
        }


def audited(images: int, folder: Path) -> dict[str, float]:
    """Seconds of each step of an audit of so many images, and the peak of its memory in bytes."""
    from unittest.mock import patch

    import torch

    from audit import engine, plugins
    from audit.energy import Ledger
    from audit.generation import generate
    from audit.spec import Spec
    from audit.store import Run
    from audit.study import Study
    from audit.suites import Suite, load

    torch.set_num_threads(1)
    phantom = load("phantom").content
    prompts = {f"subject {k}": {"text": f"a portrait of subject {k}"} for k in range(PROMPTS)}
    suite = Suite(
        "load",
        "",
        {
            "attributes": {"gender": phantom["attributes"]["gender"]},
            "demographics": {"attributes": ["gender"], "prompts": prompts},
        },
    )
    spec = Spec(model="drawn", images_per_prompt=images // PROMPTS, batch_size=BATCH, device="cpu")
    sampler = {"steps": 1, "guidance": 1.0, "height": 64, "width": 64}
    study = Study(spec, suite, None, sampler)
    probe = plugins.load("probes", "demographics")()
    probe.detectors = ("clip",)
    probes, backend, seconds = {"demographics": probe}, Drawer(), {}
    known = plugins.load

    def loaded(kind: Any, name: str) -> Any:
        return Colours if (kind, name) == ("detectors", "clip") else known(kind, name)

    store = Run.create(folder)
    with store.lock(), patch.object(plugins, "load", loaded):
        clock = time.process_time()

        def lap(step: str) -> None:
            nonlocal clock
            seconds[step], clock = time.process_time() - clock, time.process_time()

        engine._identify(store, study, backend, "")
        uses = engine.make_plan(study, probes)
        plan = engine._write_plan(store, uses, BATCH)
        ledger = Ledger(store, {})
        lap("plan")
        generate(store, spec, backend, plan, ledger)
        del plan  # as the engine lets it go
        lap("generate")
        engine.detect(store, study, probes, uses, ledger)
        lap("detect")
        found = engine.analyse(store, study, probes)
        lap("analyse")
    assert len(store.read_table("records", ["request"])) == images
    assert sum(finding.estimate is not None for finding in found) > PROMPTS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return seconds | {"peak": float(peak)}


def in_a_process(images: int) -> dict[str, float]:
    """:func:`audited` where no earlier run has left anything in memory."""
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, __file__, "--audit", str(images), temporary + "/run"]
        one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, env=one_thread, text=True
        )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def rows(small: int, large: int) -> list[Row]:
    """The large run against the small one."""
    few, many = in_a_process(small), in_a_process(large)
    against = f"{small:,} images"
    sizes = f"× ({many['peak'] / 1e6:.0f} MB against {few['peak'] / 1e6:.0f} MB)"
    found = [
        at_most(f"peak memory, {large:,} images", many["peak"] / few["peak"], 1.2, sizes, against)
    ]
    per = {step: (1000 * many[step] / large, 1000 * few[step] / small) for step in STEPS}
    per["all steps"] = tuple(map(sum, zip(*per.values(), strict=True)))
    for step, (late, early) in per.items():
        unit = f"× ({late:.2f} ms against {early:.2f} ms)"
        name = f"processor time an image, {large:,} images, {step}"
        whole = step == "all steps"
        row = at_most(name, late / early, 1.2, unit, against)
        found.append(row if whole else Row(name, late / early, unit, against))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory and time of a run as it grows.")
    parser.add_argument("--quick", action="store_true", help="2,000 images against 20,000")
    parser.add_argument("--json", type=Path, help="write the rows there too")
    parser.add_argument("--audit", nargs=2, metavar=("IMAGES", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.audit:
        print(json.dumps(audited(int(given.audit[0]), Path(given.audit[1]))))
        return
    described = machine()
    sizes = (2_000, 20_000) if given.quick else (20_000, 200_000)
    print(report(rows(*sizes), described, given.json))


if __name__ == "__main__":
    main()
