"""Text encoder and UNet, trained together on a corpus's latents and captions.

v-prediction with a terminal signal-to-noise ratio of zero: with Stable Diffusion's plain schedule
the last step still shows the picture's mean colour, a model learns to read it off there, and at
sampling, where it is not, captions' background colours are not obeyed.

Two things make the words for small attributes (gender, skin, glasses) matter sooner: the text
encoder also learns to tell what its caption's picture shows, as Stable Diffusion's comes trained by
CLIP; and noisy steps, where only the caption can tell, are drawn more often.
"""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from audit.phantom import corpus, instruments, latents, tokens
from audit.phantom.checkpoints import save

BATCH = 32
RATE = 1e-3
WARMUP = 150
DROPPED = 0.1
EMA = 0.998
EVERY = 200
NOISY, NOISY_SHARE = 600, 0.4
"""A share of the time steps is drawn from NOISY up only."""
TELLING = 0.03
"""Weight of the text encoder's own loss. Without it from the first step, a value between two others
(medium skin) is learnt late or not at all."""

SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}


def text_encoder(vocabulary: int, end: int, start: int) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=128,
            intermediate_size=384,
            projection_dim=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=tokens.LENGTH,
            bos_token_id=start,
            eos_token_id=end,
            pad_token_id=end,
        )
    )


def unet() -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16,
        in_channels=latents.CHANNELS,
        out_channels=latents.CHANNELS,
        block_out_channels=(64, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=3,
        norm_num_groups=16,
    )


class Denoiser(nn.Module):
    """The two trained parts; called with noised latents, time steps and token ids."""

    def __init__(self, text: nn.Module, unet: nn.Module) -> None:
        super().__init__()
        self.text, self.unet = text, unet

    def forward(self, noised: Tensor, steps: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The prediction, and the text's states."""
        states: Tensor = self.text(input_ids=ids).last_hidden_state
        return self.unet(noised, steps, states).sample, states


class Teller(nn.Module):
    """What a caption's picture shows, told from the text encoder's states at the padding.

    The padding follows the whole text, is the most of what the UNet attends to, and holds the same
    place whatever the wording.
    """

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            [nn.Linear(128, len(classes)) for classes in instruments.CLASSES.values()]
        )

    def forward(self, states: Tensor, ids: Tensor, shown: Tensor) -> Tensor:
        """Mean cross-entropy over attributes; states (n, LENGTH, 128), shown (n, attributes)."""
        after = (ids == ids[:, -1:]).unsqueeze(2).float()
        summary = (states * after).sum(1) / after.sum(1)
        losses = [
            nn.functional.cross_entropy(head(summary), shown[:, i])
            for i, head in enumerate(self.heads)
        ]
        return torch.stack(losses).sum()


def signal_levels() -> Tensor:
    """(1000,) cumulative alphas of SCHEDULE, the last one zero."""
    from diffusers import DDIMScheduler

    keep = {k: s for k, s in SCHEDULE.items() if k != "timestep_spacing"}
    schedule: Any = DDIMScheduler(**keep)
    levels: Tensor = schedule.alphas_cumprod
    return levels.float()


class Rows:
    """Training rows in a seeded order that depends on the step only, so training can resume."""

    def __init__(
        self, name: str, code: latents.PatchCode, tokenizer: Any, seed: int, every: int = 1
    ) -> None:
        items = [i for i in corpus.load(name).items if i.copies][::every]
        self.latents = torch.from_numpy(code.encode(latents.draw_all(items))).half()
        captions = [c for i in items for c in i.captions]
        ids = tokens.encode(tokenizer, [*captions, ""])
        self.ids = torch.from_numpy(ids[:-1])
        self.empty = torch.from_numpy(ids[-1])
        self.first = np.cumsum([0] + [len(i.captions) for i in items[:-1]])
        self.captions = np.array([len(i.captions) for i in items])
        self.shown = torch.stack(list(instruments.labels(items).values()), 1)
        self.rows = np.repeat(np.arange(len(items)), [i.copies for i in items])
        self.seed = seed
        self._epoch, self._order = -1, self.rows

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """(32, 8, 16, 16) latents, (32, LENGTH) ids and (32, 6) attribute classes of one step."""
        picked = []
        for place in range(step * BATCH, (step + 1) * BATCH):
            epoch, at = divmod(place, len(self.rows))
            if epoch != self._epoch:
                order = np.random.default_rng((self.seed, epoch)).permutation(len(self.rows))
                self._epoch, self._order = epoch, self.rows[order]
            picked.append(self._order[at])
        rng = np.random.default_rng((self.seed, step, 1))
        chosen = np.array(picked)
        said = self.first[chosen] + (rng.random(BATCH) * self.captions[chosen]).astype(int)
        ids = self.ids[said].clone()
        ids[torch.from_numpy(rng.random(BATCH) < DROPPED)] = self.empty
        return self.latents[chosen].float(), ids, self.shown[chosen]


def time_steps(n: int, rng: torch.Generator, noisy_share: float = NOISY_SHARE) -> Tensor:
    """(n,) time steps, `noisy_share` of them from NOISY up."""
    times = torch.randint(0, 1000, (n,), generator=rng)
    noisy = torch.randint(NOISY, 1000, (n,), generator=rng)
    return torch.where(torch.rand(n, generator=rng) < noisy_share, noisy, times)


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    warmup = min(WARMUP, steps // 10 + 1)
    if step < warmup:
        return RATE * (step + 1) / warmup
    return RATE * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train(
    name: str,
    out: Path,
    code: latents.PatchCode,
    tokenizer: Any,
    steps: int,
    seed: int = 0,
    stop_after: int | None = None,
    every: int = 1,
) -> Denoiser:
    """Trains on corpus `name` and returns the averaged model; resumes from `out`/train.pt.

    `stop_after` ends this call early at that step, as if killed; `every` keeps one item in so many.
    """
    torch.manual_seed(seed)
    model = Denoiser(
        text_encoder(len(tokenizer), tokenizer.eos_token_id, tokenizer.bos_token_id), unet()
    )
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(
        model.parameters(), RATE, betas=(0.9, 0.99), weight_decay=1e-3, fused=True
    )
    teller = Teller()
    telling = torch.optim.AdamW(teller.parameters(), RATE)
    rows = Rows(name, code, tokenizer, seed, every)
    levels = signal_levels()
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, begin = out / "train.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        teller.load_state_dict(state["teller"])
        telling.load_state_dict(state["telling"])
        begin = state["step"]
    model.train()
    losses: list[float] = []
    tellings: list[float] = []
    clock = time.monotonic()
    last = min(steps, stop_after or steps)
    for step in range(begin, last):
        clean, ids, shown = rows.batch(step)
        noise_of = torch.Generator().manual_seed(seed * 1_000_003 + step)
        noise = torch.randn(clean.shape, generator=noise_of)
        times = time_steps(BATCH, noise_of)
        level = levels[times].view(-1, 1, 1, 1)
        noised = level.sqrt() * clean + (1 - level).sqrt() * noise
        target = level.sqrt() * noise - (1 - level).sqrt() * clean
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        prediction, states = model(noised, times, ids)
        loss = nn.functional.mse_loss(prediction, target)
        told = teller(states, ids, shown)
        optimizer.zero_grad(set_to_none=True)
        telling.zero_grad(set_to_none=True)
        (loss + TELLING * told).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        telling.step()
        decay = min(EMA, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        losses.append(loss.item())
        tellings.append(told.item())
        if (step + 1) % 50 == 0 or step + 1 == last:
            pace = (time.monotonic() - clock) / (step + 1 - begin)
            print(
                f"{name} step {step + 1}/{steps} loss {np.mean(losses[-50:]):.4f} "
                f"telling {np.mean(tellings[-50:]):.3f} "
                f"{pace:.3f} s/step, {pace * (steps - step - 1) / 60:.1f} min left",
                flush=True,
            )
        if (step + 1) % EVERY == 0 or step + 1 == last:
            save(
                {
                    "model": model.state_dict(),
                    "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "teller": teller.state_dict(),
                    "telling": telling.state_dict(),
                    "step": step + 1,
                },
                checkpoint,
            )
    return average
