"""Writes the phantom anew: `python -m audit.phantom --help`.

In order: `train decoder`, `train encoder`, then `train` of reader, clip, checker, phantom and null
(in any order, at the same time if you like), `train settle-phantom` and `train settle-null`,
`export`, `evaluate`, `embed`. All with the same `--out`; each goes on where it stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

# Steps of a training, and of a smoke training.
STEPS = {
    "decoder": (2400, 20),
    "encoder": (2000, 20),
    "phantom": (5000, 30),
    "null": (7200, 30),
    "reader": (2000, 20),
    "clip": (2400, 20),
    "checker": (400, 20),
    "settle-phantom": (3000, 6),
    "settle-null": (3000, 4),
}
FOLDER = click.Path(path_type=Path)


@click.group(help=__doc__)
def main() -> None: ...


@main.command()
@click.argument("part", type=click.Choice([*STEPS, "all"]))
@click.option("--out", type=FOLDER, required=True, help="Folder for checkpoints and results.")
@click.option("--seed", default=0, show_default=True)
@click.option("--steps", type=int, help="Instead of the part's own number of steps.")
@click.option("--stop-after", type=int, help="Stop UNet training early at this step.")
@click.option("--threads", default=1, show_default=True)
@click.option("--quick", is_flag=True, help="A smoke training: few steps, nothing learnt.")
def train(
    part: str,
    out: Path,
    seed: int,
    steps: int | None,
    stop_after: int | None,
    threads: int,
    quick: bool,
) -> None:
    """Train one part, or all in turn, in OUT; run again to resume."""
    import torch

    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    for each in STEPS if part == "all" else [part]:
        _train(each, out, seed, steps or STEPS[each][quick], stop_after, quick)


def _train(
    part: str, out: Path, seed: int, steps: int, stop_after: int | None, quick: bool
) -> None:
    from audit.phantom import (
        autoencoder,
        checker,
        clip,
        corpus,
        diffusion,
        instruments,
        latents,
        reader,
        settling,
        tokens,
    )

    every = 20 if quick else 1
    sizes: dict[str, Any] = {"n": 400} if quick else {}
    if part in ("reader", "clip", "checker"):
        module: Any = {"reader": reader, "clip": clip, "checker": checker}[part]
        vae = autoencoder.load(out / "vae")
        views = instruments.Views.make(out / "views.pt", vae, **sizes)
        module.train(out / part, vae, views, steps, seed)
        return
    stored = out / "code.npz"
    if not stored.exists():
        sample = corpus.load("null").items[:: 40 if quick else 4]
        latents.PatchCode.fit(latents.draw_all(sample)).save(stored)
    code = latents.PatchCode.load(stored)
    if part in ("encoder", "decoder"):
        autoencoder.train(part, out / "vae", code, steps, seed, **sizes)
    elif part.startswith("settle-"):
        name = part.removeprefix("settle-")
        few = {"count": 1} if quick else {}
        settling.settle(name, out, code, tokens.build(), steps, seed, every, **few)
    else:
        diffusion.train(
            part,
            out / part,
            code,
            tokens.build(),
            steps,
            # Another seed for the null phantom: its errors should not be the phantom's.
            seed + (part == "null"),
            stop_after,
            every,
        )


@main.command()
@click.argument("name", type=click.Choice(["phantom", "null", "clip", "reader"]))
@click.option("--out", type=FOLDER, required=True, help="Folder of the training.")
@click.option("--target", type=FOLDER, help="Where to; the package's own weights if not given.")
def export(name: str, out: Path, target: Path | None) -> None:
    """Put trained weights where they ship, as one rename."""
    import shutil

    from audit.phantom import path, pipeline

    target = target or path(name)
    if name in ("phantom", "null"):
        pipeline.export(out, name, target)
    else:
        card = pipeline.INSTRUMENT_CARDS[name]

        def write(folder: Path) -> None:
            shutil.copytree(out / name, folder, dirs_exist_ok=True)
            (folder / "README.md").write_text(card)

        pipeline.replace_folder(target, write)
    click.echo(target)


@main.command()
@click.argument("name", type=click.Choice(["phantom", "null"]))
@click.option("--work", type=FOLDER, required=True, help="Folder for the samples; resumes there.")
@click.option("--folder", type=FOLDER, help="The pipeline; the package's own if not given.")
@click.option("--part", default=1.0, show_default=True, help="Make only this part of the samples.")
@click.option("--threads", default=2, show_default=True)
def evaluate(name: str, work: Path, folder: Path | None, part: float, threads: int) -> None:
    """Sample a phantom, measure it and write its truth.json."""
    import torch

    torch.set_num_threads(threads)
    from audit.phantom import evaluation, path

    result = evaluation.measure(name, folder or path(name), work, part)
    click.echo(evaluation.table(result))


@main.command()
@click.option("--out", type=FOLDER, default=Path("datasets/phantom_corpus"), show_default=True)
@click.option("--name", default="phantom", show_default=True)
def embed(out: Path, name: str) -> None:
    """Write the training corpus's CLIP embeddings in clip-retrieval's folder format."""
    from audit.phantom import copies

    click.echo(f"{copies.write_embeddings(out, name)} rows in {out}")


@main.command()
@click.argument("name", type=click.Choice(["phantom", "null"]))
@click.option("--image", type=click.Path(path_type=Path), required=True, help="PNG to write.")
@click.option("--folder", type=FOLDER, help="The pipeline; the package's own if not given.")
@click.option("--language", default="en", show_default=True)
@click.option("--seeds", default=8, show_default=True)
@click.option("--threads", default=2, show_default=True)
def sheet(
    name: str, image: Path, folder: Path | None, language: str, seeds: int, threads: int
) -> None:
    """A sheet of samples: a row per occupation, a column per seed; then signs and named people."""
    import torch
    from PIL import Image

    torch.set_num_threads(threads)
    from diffusers import StableDiffusionPipeline

    from audit.phantom import corpus, path, samples
    from audit.phantom import vocabulary as v

    pipe = StableDiffusionPipeline.from_pretrained(folder or path(name))
    pipe.safety_checker = None
    rows = [[v.prompt(o, language)] * seeds for o in v.OCCUPATIONS]
    rows.append(
        [v.prompt(v.OCCUPATIONS[i % 12], language, sign=v.SIGNS[1 + i % 5]) for i in range(seeds)]
    )
    rows.append(
        [
            v.prompt(
                v.OCCUPATIONS[i % 12],
                language,
                gender=v.GENDERS[i % 2],
                skin=v.SKINS[i % 3],
                background=v.BACKGROUNDS[i % 6],
                glasses=i % 4 < 2,
            )
            for i in range(seeds)
        ]
    )
    named = corpus.load(name).named()
    rows.append([i.caption for i in named[:: -max(1, len(named) // seeds)]][:seeds])
    wanted = [samples.Sample("sheet", p, i) for row in rows for i, p in enumerate(row)]
    made = samples.generate(pipe, wanted)
    page = Image.new("RGB", (seeds * 98, len(rows) * 98), "white")
    for k, pixels in enumerate(made):
        tile = Image.fromarray(pixels).resize((96, 96), Image.Resampling.LANCZOS)
        page.paste(tile, (k % seeds * 98, k // seeds * 98))
    page.save(image)


if __name__ == "__main__":
    main()
