"""Kills a run at many moments and finishes it: ``python -m tests.survival [KILLS] [SEED]``.

Each trial is a process of its own on a fresh folder: generation, detection, analysis, labelling,
analysis with labels, card. It gets SIGKILL at a moment of its own, spread over the whole of an
undisturbed trial's time; then the same is done again, and what lies there must be the undisturbed
run's.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from audit.spec import Spec
from audit.store import Run
from audit.verify import problems


def work(spec: Spec, out: Path) -> None:
    """All that may be done to a run; what is done already is not done again."""
    import torch

    from audit import engine
    from audit.card import write
    from audit.labels import Labels
    from audit.recompute import recompute
    from audit.reopened import attributes_of

    torch.set_num_threads(1)
    run = engine.run(*engine.prepare(spec), out)
    labels = Labels(run, attributes_of(run, "demographics"))
    there = {label.image for label in labels.current()}
    for row in run.read_table("records").sort_values("request").head(3).to_dict("records"):
        if row["image"] not in there:
            labels.give("a", row["image"], row["request"], "gender", "female")
            there.add(row["image"])
    recompute(run)
    write(run, ("md", "json"))


def process(spec: Spec, out: Path) -> Any:
    """A trial under way; it shares what this process has imported, and no thread."""
    started = multiprocessing.get_context("fork").Process(target=work, args=(spec, out))
    started.start()
    return started


def contents(path: Path) -> dict[str, Any]:
    """What a finished run says, without the seconds that it took."""
    run = Run.open(path)
    tables = {}
    for name in ("plan", "records", "detections/clip", "uses/demographics"):
        frame = run.read_table(name).drop(columns=["seconds"], errors="ignore")
        frame = frame.sort_values("request", ignore_index=True)
        tables[name] = frame.to_json(double_precision=12, default_handler=str)
    images = sorted(path.glob("images/*/*.webp"))
    return {
        **tables,
        "images": [p.stem for p in images],
        "hashes": [hashlib.sha256(p.read_bytes()).hexdigest() for p in images],
        "thumbs": sorted(p.stem for p in path.glob("thumbs/*/*.webp")),
        "findings": run.read_json("findings.json"),
        "left": [p.name for p in path.rglob(".tmp-*")],
        "problems": problems(run)[0],
    }


def wrong(spec: Spec, folder: Path, kills: int, seed: int = 0) -> tuple[list[str], dict[str, int]]:
    """One line for every trial that ended otherwise than the undisturbed one; and how far the
    trials had come when they were killed: step → trials."""
    # Whatever a first time costs is no part of an undisturbed trial's time.
    for name in ("warm", "undisturbed"):
        begun = time.monotonic()
        process(spec, folder / name).join()
        seconds = time.monotonic() - begun
    expected = contents(folder / "undisturbed")
    assert not expected["problems"] and not expected["left"], expected
    dice, found, reached = random.Random(seed), [], dict.fromkeys(STEPS, 0)
    for number in range(kills):
        out = folder / f"killed-{number}"
        moment = seconds * (number + dice.random()) / kills
        trial = process(spec, out)
        time.sleep(moment)
        trial.kill()
        trial.join()
        step = "the end" if trial.exitcode != -signal.SIGKILL else come_to(out)
        reached[step] += 1
        again = process(spec, out)
        again.join()
        there = contents(out) if again.exitcode == 0 else {}
        other = [name for name in expected if there.get(name) != expected[name]]
        if other:
            found.append(
                f"killed after {moment:.2f} s ({step}), finished with {again.exitcode}: "
                f"{', '.join(other)}"
            )
    return found, reached


STEPS = ("nothing", "generation", "detection", "analysis", "labels", "card", "the end")


def come_to(out: Path) -> str:
    """The last step of which something lies there."""
    marks = {
        "card": "card/*",
        "labels": "labels.sqlite",
        "analysis": "findings.json",
        "detection": "detections/*/part-*",
        "generation": "records/part-*",
    }
    return next((step for step, mark in marks.items() if any(out.glob(mark))), "nothing")


def main() -> None:
    from tests.tiny import make_clip, make_stable_diffusion, make_suite

    kills, seed = (int(a) for a in (sys.argv[1:] + ["50", "0"][len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = make_stable_diffusion(folder / "model")
        suite = make_suite(folder / "suite.yaml", make_clip(folder / "clip"))
        found, reached = wrong(spec_of(model, suite), folder, kills, seed)
    print(f"{kills} kills, by what was there: {reached}")
    print("\n".join(found) or "every run was finished, the same as the undisturbed one")
    sys.exit(bool(found))


def spec_of(model: Path, suite: Path) -> Spec:
    """A small audit of a tiny model."""
    return Spec(
        model=str(model),
        suite=str(suite),
        batch_size=3,
        images_per_prompt=4,
        probes={"demographics": {}},
    )


if __name__ == "__main__":
    main()
