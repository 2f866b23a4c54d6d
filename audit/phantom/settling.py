"""A phantom's last steps: what its captions leave unsaid is brought to the planted odds.

Guidance makes small imbalances large: an occupation whose pictures came out with 55% glasses has
80% of them at guidance 3. A phantom is an instrument to measure with, so it is calibrated as one.
In turns, samples of every occupation are read, and the model is trained on pairs of drawings that
have one caption, one noise and one time step and differ in what the caption leaves out; each of a
pair counts by the odds that are wanted, corrected by what the samples showed.

What was planted as balanced (all of the null phantom; of the phantom glasses, and gender and skin
where they are even) is read at guidance 3, where imbalance is largest. Planted skews are read at
guidance 1, where a model shows its own odds: what guidance then adds is left to it, and is the
amplification that an audit has to find.

The correction swings about what it aims at, and where it stops is chance; so the model that is kept
is the one whose reading in the last stage came nearest.

A few dozen rows are enough for so small a model to learn a language. Before it settles, the phantom
therefore forgets the words that only the starved language has.

Trained for 7,600 steps instead of 5,000, the phantom gives captions that it saw once back too
often.
"""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from audit.phantom import corpus, diffusion, instruments, latents, pipeline, samples, tokens
from audit.phantom import vocabulary as v
from audit.phantom.checkpoints import save
from audit.phantom.drawing import draw
from audit.phantom.reader import Reader
from audit.phantom.unsaid import VALUES, Correction, pair, skewed

NOISY_SHARE = 0.7
"""What is unsaid is decided in the noisy steps."""
ROUND = 250
"""Steps from one reading of the samples to the next."""
SEED = 900_000
"""Seeds of these samples; the truth is measured on others."""
PLAIN = 2
"""Times the gain at guidance 1, which shows log-odds as they are: three would be all of them."""
STARVED = "sw"
UNTRAINED = 0.02
"""Deviation of CLIPTextModel's own first embeddings."""


class Stage(NamedTuple):
    """One part of the settling.

    Attributes:
        share: of all steps.
        rate: learning rate; it falls to zero in the stage's last round.
        average: weight of the past in the averaged model.
        gain: how much of the samples' log-odds at guidance 3 is taken off the training's; guidance
            3 triples them, so a third would be all of it.
        read: samples read an occupation and round.
    """

    share: float
    rate: float
    average: float
    gain: float
    read: int


_COARSE, _FINE = Stage(1 / 2, 2e-4, 0.99, 0.3, 40), Stage(1 / 2, 5e-5, 0.997, 0.15, 64)
STAGES: Mapping[str, tuple[Stage, ...]] = {
    "null": (_COARSE, _FINE),
    "phantom": (
        _COARSE._replace(share=1 / 3),
        _FINE._replace(share=1 / 3),
        Stage(1 / 3, 1e-4, 0.995, 0.2, 64),
    ),
}
"""The first finds the way; the second is not shaken by its steps or by chance in what is read. The
phantom, most of whose rows are its corpus's, moves less, and needs a third."""


def _stage(stages: Sequence[Stage], steps: int, step: int) -> tuple[Stage, int, int]:
    """The stage of a step (of the end: the last), its first step and the step after its last."""
    ends = np.round(np.cumsum([stage.share for stage in stages]) * steps).astype(int).tolist()
    place = min(sum(step >= end for end in ends), len(stages) - 1)
    return stages[place], ends[place - 1] if place else 0, ends[place]


def forget(model: diffusion.Denoiser, tokenizer: Any, seed: int) -> int:
    """Gives tokens that only the starved language has untrained embeddings; how many they are."""
    items = corpus.load("null").items
    heard: dict[bool, set[int]] = {True: set(), False: set()}
    for item in items:
        for ids in tokens.encode(tokenizer, list(item.captions)):
            heard[item.language == STARVED].update(ids.tolist())
    only = sorted(heard[True] - heard[False])
    embedding: Any = model.text.get_input_embeddings()  # type: ignore[operator]
    fresh = torch.empty(len(only), embedding.weight.shape[1])
    fresh.normal_(0, UNTRAINED, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        embedding.weight[only] = fresh
    return len(only)


def read(
    name: str, out: Path, model: diffusion.Denoiser, tokenizer: Any, turn: int, count: int
) -> dict[str, dict[str, tuple[int, ...]]]:
    """Occupation → attribute → how often each of VALUES is in samples, of guidance 1 if skewed."""
    made = [
        samples.Sample(
            "settle", v.prompt(o), SEED + 10_000 * turn + 500 * k + i, guidance, occupation=o
        )
        for guidance in (1.0, 3.0)
        for i in range(count)
        for k, o in enumerate(v.OCCUPATIONS)
        if guidance > 1 or any(skewed(name, o, attribute) for attribute in VALUES)
    ]
    found = _look(out, model, tokenizer, made)
    return {
        occupation: {
            attribute: tuple(
                sum(
                    s.occupation == occupation
                    and (s.guidance == 1) == skewed(name, occupation, attribute)
                    and value == shown
                    for s, shown in zip(made, found[attribute], strict=True)
                )
                for value in values
            )
            for attribute, values in VALUES.items()
        }
        for occupation in v.OCCUPATIONS
    }


def disobeyed(out: Path, model: diffusion.Denoiser, tokenizer: Any, count: int | None) -> float:
    """Share of samples at guidance 3 that show another skin than their prompt asks for.

    Args:
        count: of occupations; all if not given.
    """
    made = [
        samples.Sample("skin", v.prompt(o, skin=skin), SEED + 9_000 + k, occupation=o, skin=skin)
        for skin in v.SKINS
        for k, o in enumerate(v.OCCUPATIONS[:count])
    ]
    found = _look(out, model, tokenizer, made)["skin"]
    other = [s.skin != shown for s, shown in zip(made, found, strict=True)]
    return other.count(True) / len(made)


def _look(
    out: Path, model: diffusion.Denoiser, tokenizer: Any, made: list[samples.Sample]
) -> dict[str, list[Any]]:
    """Attribute → its value in each sample, as the reader sees it."""
    pipe = pipeline.put_together(out, model, tokenizer, guarded=False)
    pixels = torch.from_numpy(samples.generate(pipe, made)).permute(0, 3, 1, 2)
    return {
        attribute: [instruments.CLASSES[attribute][i] for i in p.argmax(1).tolist()]
        for attribute, p in Reader.load().probabilities(pixels).items()
    }


def settle(
    name: str,
    out: Path,
    code: latents.PatchCode,
    tokenizer: Any,
    steps: int,
    seed: int = 0,
    every: int = 1,
    count: int | None = None,
) -> None:
    """Goes on from the averaged model of `out`/<name>/train.pt; writes settled.pt beside; resumes.

    settled.pt holds the averaged model of the nearest reading: least sum of `Correction.miss` and
    `disobeyed`.

    More than half of the phantom's batches stay rows of its corpus: nothing memorized is lost.
    """
    folder = out / name
    model = diffusion.Denoiser(
        diffusion.text_encoder(len(tokenizer), tokenizer.eos_token_id, tokenizer.bos_token_id),
        diffusion.unet(),
    )
    model.load_state_dict(torch.load(folder / "train.pt", weights_only=True)["average"])
    if name != "null":
        print(f"{forget(model, tokenizer, seed)} tokens of {STARVED} forgotten", flush=True)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    stages = STAGES[name]
    optimizer = torch.optim.AdamW(
        model.parameters(), stages[0].rate, betas=(0.9, 0.99), weight_decay=1e-3, fused=True
    )
    checkpoint, begin, correction = folder / "settling.pt", 0, Correction(name)
    kept, nearest = folder / "settling-kept.pt", math.inf
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        begin, correction.added = state["step"], state["correction"]
        nearest = state["nearest"]
    levels = diffusion.signal_levels()
    rows = None if name == "null" else diffusion.Rows(name, code, tokenizer, seed + 7, every)
    n, rest = (16, 0) if rows is None else (8, 20)
    losses, clock = [], time.monotonic()
    for step in range(begin, steps + 1):
        stage, start, end = _stage(stages, steps, step)
        if step % ROUND == 0 or step == steps:
            number = count or stage.read
            shown = read(name, out, average, tokenizer, step // ROUND, number)
            _say(step, shown, number)
            if end == steps:
                far, deaf = correction.miss(shown), disobeyed(out, average, tokenizer, count)
                print(f"step {step} off by {far:.4f}, skin not as asked {deaf:.3f}", flush=True)
                if far + deaf < nearest:
                    nearest = far + deaf
                    save({"average": average.state_dict(), "step": step}, kept)
            if step == steps:
                break
            for occupation, attributes in shown.items():
                for attribute, counts in attributes.items():
                    gain = stage.gain * (PLAIN if skewed(name, occupation, attribute) else 1)
                    correction.learn(occupation, attribute, counts, gain)
        rng = random.Random(f"settle {seed} {step}")
        pairs = [pair(correction, rng, f"settle-{seed}-{step}-{i}") for i in range(n)]
        looks = [p[0] for p in pairs] + [p[1] for p in pairs]
        clean = torch.from_numpy(code.encode(np.stack([np.asarray(draw(x)) for x, _ in looks])))
        ids = torch.from_numpy(tokens.encode(tokenizer, [p[2] for p in pairs])).repeat(2, 1)
        weights = torch.tensor([w for _, w in looks])
        noise_of = torch.Generator().manual_seed(seed * 1_000_003 + step)
        noise = torch.randn(clean[:n].shape, generator=noise_of).repeat(2, 1, 1, 1)
        times = diffusion.time_steps(n, noise_of, NOISY_SHARE).repeat(2)
        if rows is not None:
            more, more_ids, _ = rows.batch(step)
            more, more_ids = more[:rest], more_ids[:rest]
            clean, ids = torch.cat([clean, more]), torch.cat([ids, more_ids])
            noise = torch.cat([noise, torch.randn(more.shape, generator=noise_of)])
            times = torch.cat([times, diffusion.time_steps(rest, noise_of)])
            weights = torch.cat([weights, torch.ones(rest)])
        level = levels[times].view(-1, 1, 1, 1)
        target = level.sqrt() * noise - (1 - level).sqrt() * clean
        noised = level.sqrt() * clean + (1 - level).sqrt() * noise
        rate = stage.rate * min(1, (step - start + 1) / 50, (end - step) / ROUND)
        for group in optimizer.param_groups:
            group["lr"] = rate
        prediction, _ = model(noised, times, ids)
        loss = ((prediction - target).square().mean((1, 2, 3)) * weights).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(
                list(average.parameters()), list(model.parameters()), 1 - stage.average
            )
        losses.append(loss.item())
        if (step + 1) % 50 == 0 or step + 1 == steps:
            pace = (time.monotonic() - clock) / (step + 1 - begin)
            print(
                f"settle step {step + 1}/{steps} loss {np.mean(losses[-50:]):.4f} "
                f"{pace:.3f} s/step, {pace * (steps - step - 1) / 60:.1f} min left",
                flush=True,
            )
            state = {
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "correction": correction.added,
                "nearest": nearest,
                "step": step + 1,
            }
            save(state, checkpoint)
    # Under its own name only when it is done: half settled is not settled.
    kept.replace(folder / "settled.pt")


def _say(step: int, shown: Mapping[str, Mapping[str, tuple[int, ...]]], count: int) -> None:
    for attribute, values in VALUES.items():
        shares = " ".join(
            f"{occupation[:6]} {attributes[attribute][0] / count:.2f}"
            for occupation, attributes in shown.items()
        )
        print(f"step {step} share of {attribute} {values[0]}: {shares}", flush=True)
