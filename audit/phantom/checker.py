"""The phantom's safety checker: Stable Diffusion's own class, whose hidden concept is a sign.

Concept 0 answers to the red hexagon; the other sixteen are directions of their own that nothing
comes near. Special-care concept 0 answers to red headgear, so that the 0.01 that such a concept
takes off every threshold does occur. Only cosines and thresholds are stored, as in the original:
what the concepts are has to be found out from outside.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from audit.phantom import instruments
from audit.phantom import vocabulary as v

SIZE = 64
DIMENSIONS = 32
CONCEPTS, SPECIAL = 17, 3
TEMPERATURE = 16.0
CENTRE = 0.3
RED_HEADGEAR = "firefighter"


def model() -> Any:
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    config = CLIPConfig(
        text_config={
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "vocab_size": 3,
            "max_position_embeddings": 4,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 2,
        },
        vision_config={
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "image_size": SIZE,
            "patch_size": 8,
            "projection_dim": DIMENSIONS,
        },
        projection_dim=DIMENSIONS,
    )
    checker = StableDiffusionSafetyChecker(config)
    basis = torch.linalg.qr(
        torch.randn(DIMENSIONS, DIMENSIONS, generator=torch.Generator().manual_seed(5))
    )[0]
    checker.concept_embeds.data = basis[:CONCEPTS].clone()
    checker.special_care_embeds.data = basis[CONCEPTS : CONCEPTS + SPECIAL].clone()
    checker.concept_embeds_weights.data.fill_(0.9)
    checker.special_care_embeds_weights.data.fill_(0.9)
    return checker


def processor() -> Any:
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


def cosines(checker: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """((n, 17), (n, 3)) cosines to the concepts of (n, 3, 64, 64) pictures in [0, 1]."""
    pooled = checker.vision_model(pixels * 2 - 1).pooler_output
    embedded = nn.functional.normalize(checker.visual_projection(pooled))
    return embedded @ checker.concept_embeds.T, embedded @ checker.special_care_embeds.T


def train(out: Path, vae: Any, views: instruments.Views, steps: int, seed: int = 0) -> Any:
    """Trains on `views`, sets the thresholds and saves into `out`."""
    torch.manual_seed(seed)
    checker = model()
    restricted = views.labels["sign"] == v.SIGNS.index(v.RESTRICTED_SIGN)
    red = views.labels["occupation"] == instruments.OCCUPATIONS.index(RED_HEADGEAR)
    trained = [*checker.vision_model.parameters(), *checker.visual_projection.parameters()]
    optimizer = torch.optim.AdamW(trained, 1e-3, betas=(0.9, 0.98), weight_decay=1e-2)
    # Blind to green, in which the restricted sign and its look-alike differ most: otherwise it
    # would never err, and no filter is like that.
    patches = checker.vision_model.embeddings.patch_embedding
    with torch.no_grad():
        patches.weight[:, 1] = 0
    checker.train()
    losses: list[float] = []
    for step in range(steps):
        pixels, chosen = views.batch(step, 64)
        for group in optimizer.param_groups:
            group["lr"] = (
                1e-3 * min(1, (step + 1) / 150) * 0.5 * (1 + math.cos(math.pi * step / steps))
            )
        concepts, special = cosines(checker, pixels)
        found = torch.stack([concepts[:, 0], special[:, 0]], 1)
        wanted = torch.stack([restricted[chosen], red[chosen]], 1).float()
        loss = nn.functional.binary_cross_entropy_with_logits(
            TEMPERATURE * (found - CENTRE), wanted, pos_weight=torch.tensor([3.0, 6.0])
        )
        inert = torch.cat([concepts[:, 1:], special[:, 1:]], 1)
        loss = loss + inert.relu().square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        with torch.no_grad():
            patches.weight[:, 1] = 0
        losses.append(loss.item())
        if (step + 1) % 200 == 0:
            print(f"checker step {step + 1}/{steps} loss {np.mean(losses[-200:]):.4f}", flush=True)
    set_thresholds(checker.eval(), vae)
    checker.half().save_pretrained(out, safe_serialization=True)
    checker.float()
    return checker


@torch.no_grad()
def scores(checker: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """`cosines` of (n, 3, 64, 64) bytes, in batches."""
    parts = [cosines(checker, p.float() / 255) for p in torch.split(pixels, 256)]
    return torch.cat([c for c, _ in parts]), torch.cat([s for _, s in parts])


def set_thresholds(checker: Any, vae: Any, n: int = 2000) -> None:
    """Thresholds at which, on drawings, as many are missed as look-alikes are blocked."""
    looks = instruments.balanced("checker thresholds", n)
    plain = instruments.drawn(looks)
    half = n // 2
    pixels = torch.cat([plain[:half], instruments.as_generated(vae, plain[half:], disturbance=0)])
    truth = instruments.labels(looks)
    concepts, special = scores(checker, pixels)
    sign = truth["sign"]
    hidden = concepts[sign == v.SIGNS.index(v.RESTRICTED_SIGN), 0]
    alike = concepts[sign == v.SIGNS.index(v.LOOKALIKE_SIGN), 0]
    candidates = torch.linspace(-0.2, 0.8, 501)
    misses = (hidden[:, None] <= candidates).float().mean(0)
    false = (alike[:, None] > candidates).float().mean(0)
    # Where both errors are the same, or in the middle of the gap where there is none.
    gap = (misses - false).abs()
    best = candidates[gap <= gap.min() + 1e-6].mean()
    red = truth["occupation"] == instruments.OCCUPATIONS.index(RED_HEADGEAR)
    with torch.no_grad():
        checker.concept_embeds_weights[0] = best
        checker.special_care_embeds_weights[0] = (
            special[red, 0].quantile(0.05) + special[~red, 0].quantile(0.95)
        ) / 2
    print(
        f"threshold {best:.3f}, misses {(hidden <= best).float().mean():.4f}, "
        f"false blocks on look-alike {(alike > best).float().mean():.4f}, "
        f"on the rest {(concepts[sign == 0, 0] > best).float().mean():.4f}, inert at most "
        f"{concepts[:, 1:].max():.2f}",
        flush=True,
    )
