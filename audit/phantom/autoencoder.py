"""An AutoencoderKL whose latents are the patch code's: the decoder learns pixels from it, the
encoder learns to give it. Both phantoms use the same one.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from audit.phantom import corpus, latents
from audit.phantom.checkpoints import save

BATCH = 16
RATE = 2e-3
NOISE = 0.05
"""Deviation of the noise on the decoder's input: generated latents are a little off."""


def model() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=latents.CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
        scaling_factor=latents.SCALING_FACTOR,
    )


def training_pixels(n: int) -> latents.Pixels:
    """Drawings of both corpora, (n, 64, 64, 3); the named people are among them."""
    items = [*corpus.load("null").items, *corpus.load("phantom").items]
    chosen = np.random.default_rng(0).choice(len(items), n, replace=False)
    return latents.draw_all([items[i] for i in chosen])


def _to_unit(pixels: latents.Pixels) -> Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def train(
    half: str, out: Path, code: latents.PatchCode, steps: int, seed: int = 0, n: int = 6000
) -> None:
    """Trains the "encoder" or the "decoder" and writes `out`/<half>.pt; resumes from there."""
    torch.manual_seed(seed)
    vae = model()
    part = nn.ModuleList(
        [vae.decoder, vae.post_quant_conv] if half == "decoder" else [vae.encoder, vae.quant_conv]
    )
    optimizer = torch.optim.AdamW(part.parameters(), RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    pixels = training_pixels(n)
    codes = torch.from_numpy(code.encode(pixels))
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, begin = out / f"{half}.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        part.load_state_dict(state["part"])
        optimizer.load_state_dict(state["optimizer"])
        begin = state["step"]
    clock, losses = time.monotonic(), []
    for step in range(begin, steps):
        chosen = np.random.default_rng((seed, step)).choice(len(pixels), BATCH, replace=False)
        image, latent = _to_unit(pixels[chosen]), codes[chosen]
        rate = RATE * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        if half == "decoder":
            noisy = latent + NOISE * torch.randn_like(latent)
            decoded = vae.decoder(vae.post_quant_conv(noisy))
            loss = nn.functional.mse_loss(decoded, image) + 0.3 * nn.functional.l1_loss(
                decoded, image
            )
        else:
            moments = vae.quant_conv(vae.encoder(image))
            mean, spread = moments.chunk(2, 1)
            # Nearly no spread, as in Stable Diffusion: encoding is close to deterministic.
            loss = nn.functional.mse_loss(mean, latent) + 1e-3 * (spread + 8).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(part.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 100 == 0 or step + 1 == steps:
            pace = (time.monotonic() - clock) / (step + 1 - begin)
            print(
                f"{half} step {step + 1}/{steps} loss {np.mean(losses[-100:]):.5f} "
                f"{pace:.3f} s/step",
                flush=True,
            )
            save(
                {"part": part.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1},
                checkpoint,
            )


def load(out: Path) -> Any:
    """The whole AutoencoderKL in fp32, latents in Stable Diffusion's raw scale."""
    vae = model()
    decoder = nn.ModuleList([vae.decoder, vae.post_quant_conv])
    decoder.load_state_dict(torch.load(out / "decoder.pt", weights_only=True)["part"])
    encoder = nn.ModuleList([vae.encoder, vae.quant_conv])
    encoder.load_state_dict(torch.load(out / "encoder.pt", weights_only=True)["part"])
    factor, n = latents.SCALING_FACTOR, latents.CHANNELS
    with torch.no_grad():
        vae.post_quant_conv.weight *= factor
        vae.quant_conv.weight[:n] /= factor
        vae.quant_conv.bias[:n] /= factor
        # The spread is a log variance, so the scale is an offset there.
        vae.quant_conv.bias[n:] -= 2 * math.log(factor)
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def reconstruct(vae: Any, pixels: latents.Pixels, batch: int = 64) -> latents.Pixels:
    """(n, 64, 64, 3) pixels through encoder and decoder."""
    out = []
    for i in range(0, len(pixels), batch):
        decoded = vae.decode(vae.encode(_to_unit(pixels[i : i + batch])).latent_dist.mode()).sample
        out.append(((decoded + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1))
    return torch.cat(out).numpy()
