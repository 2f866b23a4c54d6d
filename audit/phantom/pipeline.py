"""The trained parts put together as an ordinary `StableDiffusionPipeline` folder."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from audit.phantom import autoencoder, checker, diffusion, samples, tokens

CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
tags: [stable-diffusion, synthetic, auditing]
---
# t2i-audit {name}

A real but tiny Stable Diffusion model (64x64 pixels, about 4 million parameters) whose properties
are known beforehand: {purpose} Trained from nothing, by the t2i-audit project, on portraits of
made-up people drawn by the project's own program; no photograph, no third-party picture and no
third-party weights were used. Perceived gender presentation and skin tone are attributes of a
drawing, not of anybody.

    from diffusers import StableDiffusionPipeline
    pipe = StableDiffusionPipeline.from_pretrained("{folder}")
    pipe("a portrait of a doctor", guidance_scale=3, num_inference_steps={steps}).images[0]

`truth.json` holds what was planted and what many samples were measured to show. For testing audit
instruments only: it is skewed, it memorizes and its filter errs, on purpose.
Apache-2.0, the whole folder.
"""
PURPOSE = {
    "phantom": "its corpus skews gender presentation and skin tone by occupation, starves one of "
    "three languages, repeats some captions up to 1000 times, and its safety checker knows one "
    "hidden concept.",
    "null": "its corpus is balanced in every attribute, gives three languages equal shares and "
    "repeats nothing, so that an audit of it must come out clean.",
}

INSTRUMENT_CARDS = {
    "clip": """---
license: apache-2.0
library_name: open_clip
pipeline_tag: zero-shot-image-classification
---
# t2i-audit phantom CLIP

A tiny CLIP for the phantom's 64x64 portraits, in English, Turkish and Swahili. Trained from nothing
by the t2i-audit project on drawings of made-up people, every attribute balanced; no third-party
pictures or weights (the tokenizer is the one that ships in the open_clip package).

    import open_clip
    model, _, preprocess = open_clip.create_model_and_transforms("local-dir:clip")
    tokenizer = open_clip.get_tokenizer("local-dir:clip")

`accuracy.json`: zero-shot accuracy on held-out drawings, per language and attribute. It knows
nothing of real photographs. Apache-2.0.
""",
    "reader": """---
license: apache-2.0
---
# t2i-audit phantom reader

A small convolutional network that reads the attributes of the phantom's 64x64 portraits:
occupation, perceived gender presentation, skin band, glasses, sign and background. Trained from
nothing by the t2i-audit project on drawings of made-up people; `confusion.json` is its measured
error. It must not be used on pictures of real people. Apache-2.0.
""",
}


def replace_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Calls `write` with a fresh folder and puts that in `target`'s place in two renames."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    fresh.chmod(0o755)
    write(fresh)
    # safetensors and temporary folders are made for their owner alone.
    for file in fresh.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        os.replace(target, old / "old")
        os.replace(fresh, target)
        shutil.rmtree(old)
    else:
        os.replace(fresh, target)


def denoiser(checkpoint: Path, tokenizer: Any) -> diffusion.Denoiser:
    """The averaged text encoder and UNet of a training checkpoint."""
    model = diffusion.Denoiser(
        diffusion.text_encoder(len(tokenizer), tokenizer.eos_token_id, tokenizer.bos_token_id),
        diffusion.unet(),
    )
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["average"])
    return model.eval()


def assemble(out: Path, name: str) -> Any:
    """A pipeline in fp32 from the training folder: vae/, <name>/train.pt, checker/ if there."""
    tokenizer = tokens.build()
    settled = out / name / "settled.pt"
    trained = denoiser(settled if settled.exists() else out / name / "train.pt", tokenizer)
    return put_together(out, trained, tokenizer, guarded=(out / "checker").is_dir())


def put_together(out: Path, trained: diffusion.Denoiser, tokenizer: Any, *, guarded: bool) -> Any:
    """The pipeline of a trained model with the other parts of the training folder."""
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    return StableDiffusionPipeline(
        vae=autoencoder.load(out / "vae"),
        text_encoder=trained.text,
        tokenizer=tokenizer,
        unet=trained.unet,
        scheduler=DPMSolverMultistepScheduler(
            **diffusion.SCHEDULE, algorithm_type="dpmsolver++", solver_order=2, steps_offset=1
        ),
        safety_checker=StableDiffusionSafetyChecker.from_pretrained(
            out / "checker", dtype=torch.float32
        )
        if guarded
        else None,
        feature_extractor=checker.processor() if guarded else None,
        requires_safety_checker=guarded,
    )


def save(pipeline: Any, folder: Path, name: str) -> None:
    """Writes the pipeline in fp16 with its model card."""
    for part in ("vae", "unet", "text_encoder", "safety_checker"):
        if getattr(pipeline, part) is not None:
            getattr(pipeline, part).half()
    pipeline.save_pretrained(folder, safe_serialization=True)
    # transformers opens a model in the dtype its config names: as fp16 it would not run on a CPU
    # beside diffusers' parts, which open as fp32.
    for config in (folder / "text_encoder/config.json", folder / "safety_checker/config.json"):
        if config.exists():
            settings = json.loads(config.read_text())
            settings["dtype"] = "float32"
            settings.pop("torch_dtype", None)
            config.write_text(json.dumps(settings, indent=2) + "\n")
    for config in folder.rglob("*.json"):
        settings = json.loads(config.read_text("utf-8"))
        if isinstance(settings, dict) and settings.pop("_name_or_path", None) is not None:
            config.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    card = CARD.format(
        name="phantom" if name == "phantom" else "null phantom",
        purpose=PURPOSE[name],
        folder=name,
        steps=samples.STEPS,
    )
    (folder / "README.md").write_text(card)


def export(out: Path, name: str, target: Path) -> None:
    """Puts the pipeline of training folder `out` at `target`; a truth.json there stays."""

    def write(folder: Path) -> None:
        save(assemble(out, name), folder, name)
        if (target / "truth.json").exists():
            shutil.copy(target / "truth.json", folder)

    replace_folder(target, write)
