"""The phantom's CLIP: a tiny open_clip model, equally good in the phantom's three languages.

Trained with the pairwise sigmoid loss of SigLIP (Zhai et al. 2023, eq. 1), but on what is true: a
text and a picture match when the picture has every attribute that the text says. Captions of a
small world repeat, and a softmax over a batch would call true pairs false.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from audit.phantom import instruments, path
from audit.phantom import vocabulary as v
from audit.phantom.instruments import CLASSES

CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64},
        "text_cfg": {
            # Turkish and Swahili take more of CLIP's own tokens a word than English does.
            "context_length": 52,
            "vocab_size": 49408,
            "width": 64,
            "heads": 4,
            "layers": 2,
        },
    },
    "preprocess_cfg": {
        "size": 64,
        "mode": "RGB",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}
RATE = 2e-3
BATCH = 64
ATTRIBUTES = tuple(CLASSES)
# "none" as an occupation has no words: such people are "a person".
SAID = {
    "occupation": 0.6,
    "gender": 0.45,
    "skin": 0.4,
    "glasses": 0.35,
    "sign": 0.35,
    "background": 0.35,
}
_MEDIA = ("photo", "picture", "image", "drawing", "headshot", "face")


def load_clip(path_: Path | str | None = None) -> tuple[Any, Any, Any]:
    """(model, preprocess, tokenizer) through open_clip's own API; the shipped one if no path.

    The same without this package: `open_clip.create_model_and_transforms("local-dir:FOLDER")` and
    `open_clip.get_tokenizer("local-dir:FOLDER")`.
    """
    import open_clip

    name = f"local-dir:{Path(path_) if path_ is not None else path('clip')}"
    model, _, preprocess = open_clip.create_model_and_transforms(name, precision="fp32")
    return model.eval(), preprocess, open_clip.get_tokenizer(name)


def text(said: dict[str, Any], language: str, rng: random.Random) -> str:
    """One of many ways to say some attributes; bare phrases when there is only one."""
    words = v.prompt(
        said.get("occupation"),
        language,
        gender=said.get("gender"),
        skin=said.get("skin"),
        glasses=said.get("glasses"),
        sign=said.get("sign"),
        background=said.get("background"),
        wording=rng.randrange(v.WORDINGS),
    )
    if len(said) == 1 and rng.random() < 0.3:
        words = words.split(", ")[-1]
        if "sign" in said and said["sign"] != "none" and language == "en":
            words = words.removeprefix("holding ")
    if language == "en" and "portrait" in words and rng.random() < 0.4:
        words = words.replace("portrait", rng.choice(_MEDIA))
        words = words.replace("a image", "an image")
    if rng.random() < 0.4:
        words = words.replace(", ", " ")
    return words


def texts_for(look: Any, rng: random.Random) -> list[tuple[str, list[int]]]:
    """Per language a text true of the look, and the class that it says of each attribute or -1."""
    out = []
    for language in v.LANGUAGES:
        true = {a: v.skin_band(look.tone) if a == "skin" else getattr(look, a) for a in ATTRIBUTES}
        if rng.random() < 0.35:
            chosen = [rng.choice(ATTRIBUTES)]
        else:
            chosen = [a for a in ATTRIBUTES if rng.random() < SAID[a]]
        said = {a: true[a] for a in chosen if true[a] != "none" or a == "sign"}
        codes = [CLASSES[a].index(said[a]) if a in said else -1 for a in ATTRIBUTES]
        out.append((text(said, language, rng), codes))
    return out


class _Texts:
    """Token ids of three texts a look, renumbered to the tokens that occur.

    The order of ids is kept, because open_clip finds the end of a text as its highest id.
    """

    def __init__(self, looks: list[Any], tokenizer: Any) -> None:
        rng = random.Random("clip texts")
        pairs = [p for look in looks for p in texts_for(look, rng)]
        ids = tokenizer([words for words, _ in pairs])
        self.used = torch.unique(ids)
        self.ids = torch.searchsorted(self.used, ids).view(len(looks), len(v.LANGUAGES), -1)
        self.said = torch.tensor([codes for _, codes in pairs]).view(
            len(looks), len(v.LANGUAGES), -1
        )


def _crowds(views: instruments.Views) -> list[Tensor]:
    """People in everyday clothes with the same gender and skin, twelve or more drawings each.

    Every other batch is of one crowd: people who are only named are told apart by their looks
    alone, and attributes must not be all that an embedding holds.
    """
    kinds: dict[tuple[str, str], list[int]] = {}
    for i, look in enumerate(views.looks):
        if look.occupation == "none":
            kinds.setdefault((look.gender, v.skin_band(look.tone)), []).append(i)
    return [torch.tensor(members) for members in kinds.values() if len(members) >= 12]


def train(out: Path, vae: Any, views: instruments.Views, steps: int, seed: int = 0) -> None:
    """Trains on `views` and writes an open_clip folder and accuracy.json into `out`."""
    import open_clip

    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    (out / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    name = f"local-dir:{out}"
    open_clip.add_model_config(out / "open_clip_config.json")
    model: Any = open_clip.CLIP(**CONFIG["model_cfg"])
    texts = _Texts(views.looks, open_clip.get_tokenizer(name))
    whole = model.token_embedding
    model.token_embedding = nn.Embedding.from_pretrained(  # type: ignore[no-untyped-call]
        whole.weight.detach()[texts.used].clone(), freeze=False
    )
    bias = nn.Parameter(torch.tensor(-6.0))
    with torch.no_grad():
        model.logit_scale.fill_(math.log(12.0))
    optimizer = torch.optim.AdamW(
        [*model.parameters(), bias], RATE, betas=(0.9, 0.98), weight_decay=1e-2
    )
    is_what = torch.stack([views.labels[a] for a in ATTRIBUTES], 1)
    crowds = _crowds(views)
    losses: list[float] = []
    model.train()
    for step in range(steps):
        rng = torch.Generator().manual_seed(step)
        crowd = crowds[step // 2 % len(crowds)] if step % 2 else None
        pixels, chosen = views.batch(step, BATCH, crowd)
        other = instruments.augment(
            views.views[torch.randint(0, 2, (BATCH,), generator=rng), chosen], rng
        )
        language = torch.randint(0, len(v.LANGUAGES), (BATCH,), generator=rng)
        for group in optimizer.param_groups:
            group["lr"] = (
                RATE * min(1, (step + 1) / 150) * 0.5 * (1 + math.cos(math.pi * step / steps))
            )
        image = model.encode_image(torch.cat([pixels, other]) * 2 - 1, normalize=True)
        image, again = image.chunk(2)
        # Two pictures of one drawing are closer than any others: a copy is found again.
        alike = 20 * image @ again.T
        again_drawn = (chosen[:, None] == chosen[None]).fill_diagonal_(False)
        alike = alike.masked_fill(again_drawn, -torch.inf)
        loss = (0.2 if crowd is None else 1.0) * nn.functional.cross_entropy(
            alike, torch.arange(BATCH)
        )
        if crowd is None:
            words = model.encode_text(texts.ids[chosen, language], normalize=True)
            said = texts.said[chosen, language]
            true = ((said[None] == is_what[chosen][:, None]) | (said[None] == -1)).all(2)
            logits = model.logit_scale.exp() * image @ words.T + bias
            loss = loss + nn.functional.softplus(-logits * (2.0 * true - 1)).sum(1).mean() / 8
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 200 == 0 or step + 1 == steps:
            print(
                f"clip step {step + 1}/{steps} loss {np.mean(losses[-200:]):.4f} scale "
                f"{model.logit_scale.exp().item():.1f} bias {bias.item():.1f}",
                flush=True,
            )
            _write(model, texts.used, out)
    (out / "accuracy.json").write_text(json.dumps(accuracy(out, vae), indent=1) + "\n")


def _write(model: Any, used: Tensor, out: Path) -> None:
    from safetensors.torch import save_file

    state = {k: t.detach() for k, t in model.state_dict().items()}
    rows = torch.zeros(49408, state["token_embedding.weight"].shape[1])
    rows[used] = state["token_embedding.weight"]
    state["token_embedding.weight"] = rows
    save_file(
        {
            k: t.half().contiguous() if t.is_floating_point() else t.contiguous()
            for k, t in state.items()
            if k != "attn_mask"
        },
        out / "open_clip_model.safetensors",
    )


def accuracy(folder: Path, vae: Any, n: int = 2000) -> dict[str, Any]:
    """`zero_shot` on n held-out drawings, plain and through the autoencoder."""
    looks = instruments.balanced("held-out", n)
    plain = instruments.drawn(looks)
    return {
        "n": n,
        "drawings": zero_shot(folder, plain, looks),
        "reconstructions": zero_shot(folder, instruments.as_generated(vae, plain, 0), looks),
    }


@torch.no_grad()
def zero_shot(folder: Path | None, pixels: Tensor, looks: list[Any]) -> dict[str, Any]:
    """Language -> attribute -> accuracy of the nearest text, on (n, 3, 64, 64) bytes."""
    model, _, tokenizer = load_clip(folder)
    image = torch.cat(
        [
            model.encode_image(p.float() / 127.5 - 1, normalize=True)
            for p in torch.split(pixels, 256)
        ]
    )
    truth = instruments.labels(looks)
    result: dict[str, Any] = {}
    for language in v.LANGUAGES:
        result[language] = {}
        for attribute in ATTRIBUTES:
            classes = [c for c in CLASSES[attribute] if attribute != "occupation" or c != "none"]
            words = [
                v.prompt(**{"occupation": None, attribute: c}, language=language) for c in classes
            ]
            rows = model.encode_text(tokenizer(words), normalize=True)
            read = (image @ rows.T).argmax(1)
            known = truth[attribute] < len(classes)
            right = (read == truth[attribute])[known]
            result[language][attribute] = round(right.float().mean().item(), 4)
    return result
