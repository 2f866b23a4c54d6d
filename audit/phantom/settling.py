"""A phantom's last steps: pairs of drawings that differ in what their caption leaves out.

Guidance makes small imbalances large. By chance a batch holds more glasses among its nurses than
among its judges; in a pair with one caption, one noise and one time step that chance cancels. What
is left unsaid is settled at the planted odds: each of a pair counts by the share of its gender.
"""

from __future__ import annotations

import copy
import math
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from audit.phantom import corpus, diffusion, latents, tokens
from audit.phantom import vocabulary as v
from audit.phantom.checkpoints import save
from audit.phantom.drawing import Look, draw

RATE = 3e-4
EMA = 0.995
DROPPED = 0.2
"""Guidance takes what no caption gives off, so its balance counts twice; it is drawn more often."""
NOISY_SHARE = 0.7
"""What is unsaid is decided in the noisy steps."""
Pair = tuple[tuple[Look, float], tuple[Look, float], str]


def pair(name: str, rng: random.Random, key: str) -> Pair:
    """Two looks, each with its weight, that differ in attributes unsaid by their caption; and that.

    The null phantom's pairs differ in gender, skin and glasses, the phantom's in gender and
    glasses. Weights are one on average.
    """
    null = name == "null"
    occupation = rng.choice(v.OCCUPATIONS)
    dropped = rng.random() < DROPPED
    said = {a: not dropped and rng.random() < share for a, share in corpus.MENTION.items()}
    female = 0.5 if null else corpus.PLANTED_FEMALE[occupation]
    odds = {"female": female, "male": 1 - female}
    bands = (1, 1, 1) if null else corpus.PLANTED_SKIN[occupation]
    band = rng.choices(v.SKINS, bands)[0]
    look = Look(
        key=key,
        occupation=occupation,
        gender=rng.choices(v.GENDERS, (female, 1 - female) if said["gender"] else (1, 1))[0],
        tone=rng.choice(v.TONES[band]),
        glasses=rng.random() < 0.5,
        sign=rng.choice([s for s, n in corpus.SIGN_SHARE.items() for _ in range(n)]),
        background=rng.choice(v.BACKGROUNDS),
    )
    words = v.prompt(
        occupation,
        rng.choice(v.LANGUAGES if null else v.LANGUAGES[:2]),
        gender=look.gender if said["gender"] else None,
        skin=band if said["skin"] else None,
        glasses=look.glasses if said["glasses"] else None,
        sign=look.sign if look.sign != "none" else None,
        background=look.background if said["background"] else None,
        wording=rng.randrange(v.WORDINGS),
    )
    other = rng.choice([s for s in v.SKINS if s != band])
    twin = replace(
        look,
        gender=look.gender if said["gender"] else v.GENDERS[look.gender == "female"],
        tone=rng.choice(v.TONES[other]) if null and not said["skin"] else look.tone,
        glasses=look.glasses if said["glasses"] else not look.glasses,
    )
    one, two = (1.0 if said["gender"] else 2 * odds[x.gender] for x in (look, twin))
    return (look, one), (twin, two), "" if dropped else words


def settle(
    name: str,
    out: Path,
    code: latents.PatchCode,
    tokenizer: Any,
    steps: int,
    seed: int = 0,
    every: int = 1,
) -> None:
    """Goes on from the averaged model of `out`/train.pt and writes `out`/settled.pt; resumes.

    A quarter of the phantom's batches stays rows of its corpus, so that nothing memorized is lost.
    """
    model = diffusion.Denoiser(
        diffusion.text_encoder(len(tokenizer), tokenizer.eos_token_id, tokenizer.bos_token_id),
        diffusion.unet(),
    )
    model.load_state_dict(torch.load(out / "train.pt", weights_only=True)["average"])
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(
        model.parameters(), RATE, betas=(0.9, 0.99), weight_decay=1e-3, fused=True
    )
    checkpoint, begin = out / "settled.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        begin = state["step"]
    levels = diffusion.signal_levels()
    rows = None if name == "null" else diffusion.Rows(name, code, tokenizer, seed + 7, every)
    n, kept = (16, 0) if rows is None else (12, 8)
    losses, clock = [], time.monotonic()
    for step in range(begin, steps):
        rng = random.Random(f"settle {seed} {step}")
        pairs = [pair(name, rng, f"settle-{seed}-{step}-{i}") for i in range(n)]
        looks = [p[0] for p in pairs] + [p[1] for p in pairs]
        clean = torch.from_numpy(code.encode(np.stack([np.asarray(draw(x)) for x, _ in looks])))
        ids = torch.from_numpy(tokens.encode(tokenizer, [p[2] for p in pairs])).repeat(2, 1)
        weights = torch.tensor([w for _, w in looks])
        noise_of = torch.Generator().manual_seed(seed * 1_000_003 + step)
        noise = torch.randn(clean[:n].shape, generator=noise_of).repeat(2, 1, 1, 1)
        times = diffusion.time_steps(n, noise_of, NOISY_SHARE).repeat(2)
        if rows is not None:
            more, more_ids, _ = rows.batch(step)
            more, more_ids = more[:kept], more_ids[:kept]
            clean, ids = torch.cat([clean, more]), torch.cat([ids, more_ids])
            noise = torch.cat([noise, torch.randn(more.shape, generator=noise_of)])
            times = torch.cat([times, diffusion.time_steps(kept, noise_of)])
            weights = torch.cat([weights, torch.ones(kept)])
        level = levels[times].view(-1, 1, 1, 1)
        target = level.sqrt() * noise - (1 - level).sqrt() * clean
        noised = level.sqrt() * clean + (1 - level).sqrt() * noise
        rate = RATE * min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        prediction, _ = model(noised, times, ids)
        loss = ((prediction - target).square().mean((1, 2, 3)) * weights).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - EMA)
        losses.append(loss.item())
        if (step + 1) % 50 == 0 or step + 1 == steps:
            pace = (time.monotonic() - clock) / (step + 1 - begin)
            print(
                f"settle step {step + 1}/{steps} loss {np.mean(losses[-50:]):.4f} "
                f"{pace:.3f} s/step, {pace * (steps - step - 1) / 60:.1f} min left",
                flush=True,
            )
            save(
                {
                    "model": model.state_dict(),
                    "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step + 1,
                },
                checkpoint,
            )
