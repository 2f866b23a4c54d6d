"""``t2i-audit watermark``: which marks any images carry, calibrated, and what marks withstand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audit.errors import AuditError

from .output import echo_json
from .watermark_text import (
    answer_line,
    reasons_of,
    say_calibration,
    say_forgeries,
    say_left_out,
    say_robustness,
    say_summary,
)

if TYPE_CHECKING:
    from PIL import Image

    from safety.watermarks.attacks import Attack
    from safety.watermarks.calibration import Calibration
    from safety.watermarks.codecs import Codec
    from safety.watermarks.subjects import Subject

FPR = 1e-6


@click.group()
def watermark() -> None:
    """Check images for known watermarks and C2PA manifests; calibrate; measure robustness.

    Without --mark and --marks all installed marks are looked for, such as those of Stable
    Diffusion's scripts.
    """


_MARKS = [
    click.option(
        "--mark", "names", multiple=True, help="Only this mark, by name; repeat for more."
    ),
    click.option(
        "--marks",
        "declared",
        type=click.Path(path_type=Path),
        help="A YAML list of marks: {method, message or bits, model, name, …}.",
    ),
]
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
_CALIBRATION = click.option(
    "--calibration", type=click.Path(path_type=Path), help="A file of `watermark calibrate`."
)


def _marks(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_MARKS):
        command = option(command)
    return command


@watermark.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@_marks
@_CALIBRATION
@click.option(
    "--trust", multiple=True, type=click.Path(path_type=Path), help="C2PA trust anchors, PEM."
)
@click.option(
    "--fpr",
    type=click.FloatRange(0, 0.5, min_open=True),
    default=FPR,
    show_default=True,
    help="False-positive rate per image at which a mark counts as found.",
)
@_JSON
def check(
    files: Sequence[Path],
    names: Sequence[str],
    declared: Path | None,
    calibration: Path | None,
    trust: Sequence[Path],
    fpr: float,
    as_json: bool,
) -> None:
    """Which known marks FILES (or folders) carry, with p-values, and their C2PA state.

    A p-value is calibrated where --calibration holds clean images enough for it, else nominal: the
    binomial one, which real images do not keep to.
    """
    from safety.watermarks import c2pa, checking

    if math.isnan(fpr):  # it lies in every range of click
        raise click.UsageError("--fpr is a number between 0 and 0.5")
    codecs, reasons = _codecs(names, declared)
    anchors = c2pa.read_anchors(trust) if trust else ""
    question = checking.Question(codecs, _calibrations(calibration), fpr, anchors)
    answers = []
    for answer in checking.check(checking.files_of(files), question):
        answers.append(answer)
        if not as_json:
            click.echo(answer_line(answer))
    document = checking.summary(answers, question) | {
        "left_out": reasons | ({"c2pa": why} if (why := c2pa.unavailable()) else {}),
        "answers": answers,
    }
    if as_json:
        echo_json(document)
    else:
        say_summary(document, sorted(codecs))


@watermark.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The JSON file.")
@_marks
@click.option("--population", default="", help="Which images these are, in words.")
@click.option("--by-folder", is_flag=True, help="Images of one subfolder have a common origin.")
@click.option("--keys", type=click.IntRange(1, 100_000), default=1000, show_default=True)
@_JSON
def calibrate(
    folder: Path,
    out: Path,
    names: Sequence[str],
    declared: Path | None,
    population: str,
    by_folder: bool,
    keys: int,
    as_json: bool,
) -> None:
    """Measure marks on the clean images of FOLDER: false-positive rates as they are.

    The images must carry no mark and be of the kind that is checked later. m images support
    p-values down to 1/(m + 1). --keys random messages are measured beside each mark's own.
    """
    from safety.watermarks.calibration import calibrate as measure
    from safety.watermarks.calibration import save
    from safety.watermarks.checking import files_of

    codecs, reasons = _codecs(names, declared)
    paths = files_of([folder])
    unreadable: dict[str, str] = {}
    if by_folder:
        # The groups must be known before the images are read in a stream.
        paths = [path for path in paths if _image(path, unreadable) is not None]
    groups = [str(path.parent) for path in paths] if by_folder else None
    made: list[Calibration] = []
    for name, codec in codecs.items():
        images = (image for path in paths if (image := _image(path, unreadable)) is not None)
        try:
            made.append(measure(codec, images, population or folder.name, groups, keys))
        except AuditError as error:
            reasons[name] = str(error)
    if not made:
        raise AuditError("nothing was calibrated: " + "; ".join(reasons_of(reasons)))
    save(out, made)
    document = {
        "calibration": str(out),
        "files": len(paths) + (len(unreadable) if by_folder else 0),
        "unreadable": unreadable,
        "left_out": reasons,
        "marks": [
            {"mark": one.mark, "population": one.population, "small_or_black": one.unreadable}
            | one.report.plain()
            for one in made
        ],
    }
    if as_json:
        echo_json(document)
        return
    for one in made:
        say_calibration(one)
    say_left_out(reasons)
    if unreadable:
        click.echo(f"{len(unreadable)} files could not be read: {', '.join(sorted(unreadable))}")
    click.echo(f"written to {out}")


@watermark.command()
@click.argument("folder", type=click.Path(path_type=Path))
@_marks
@_CALIBRATION
@click.option(
    "--attack",
    "asked",
    multiple=True,
    metavar="NAME[=S,S…]",
    help="Only this attack, at these strengths; repeat for more.",
)
@click.option(
    "--images", type=click.IntRange(1), default=24, show_default=True, help="The first so many."
)
@click.option(
    "--model", default="", metavar="MODEL", help="Also let this model draw the images anew."
)
@click.option("--forge", is_flag=True, help="Also carry each mark over to the clean images.")
@click.option("--table", type=click.Path(path_type=Path), help="Write the table as CSV.")
@click.option("--svg", type=click.Path(path_type=Path), help="Write the curves as SVG.")
@_JSON
def robustness(
    folder: Path,
    names: Sequence[str],
    declared: Path | None,
    calibration: Path | None,
    asked: Sequence[str],
    images: int,
    model: str,
    forge: bool,
    table: Path | None,
    svg: Path | None,
    as_json: bool,
) -> None:
    """Mark the clean images of FOLDER, attack them, and say what is still found.

    Detection at 1e-3 and 1e-6, bit accuracy, false alarms, and each attack's PSNR and SSIM.
    MODEL, a Stable Diffusion pipeline as for `run`, adds the attacks vae and img2img.
    """
    from audit import atomic
    from safety.watermarks.robustness import robustness as measure
    from safety.watermarks.subjects import subject_of

    codecs, reasons = _codecs(names, declared)
    attacks, strengths = _attacks(asked, model)
    calibrations = _calibrations(calibration)
    unreadable: dict[str, str] = {}
    opened = _first(folder, images, unreadable)
    subjects, small = [], {}
    for name, codec in codecs.items():
        fit = [image for image in opened if image.width * image.height >= codec.smallest]
        small[name] = len(opened) - len(fit)
        try:
            if not fit:
                side = math.isqrt(codec.smallest)
                raise AuditError(f"no image of {folder} has the {side}×{side} pixels it needs")
            subjects.append(subject_of(codec, fit))
        except AuditError as error:
            reasons[name] = str(error)
    if not subjects:
        raise AuditError("nothing was measured: " + "; ".join(reasons_of(reasons)))
    found = measure(subjects, attacks, calibrations, strengths=strengths)
    forged = _forged(subjects, calibrations) if forge else None
    if table is not None:
        atomic.replace(table, found.to_csv(index=False).encode())
    if svg is not None:
        atomic.replace(svg, _drawn(found).encode())
    if as_json:
        echo_json(
            {
                "folder": str(folder),
                "images": len(opened),
                "unreadable": unreadable,
                "too_small": {name: count for name, count in small.items() if count},
                "left_out": reasons,
                "rows": found.to_dict("records"),
                "forgeries": [] if forged is None else forged.to_dict("records"),
            }
        )
        return
    say_robustness(found)
    if forged is not None:
        say_forgeries(forged)
    say_left_out(reasons)
    if unreadable:
        click.echo(f"{len(unreadable)} files could not be used: {', '.join(sorted(unreadable))}")


def _codecs(names: Sequence[str], declared: Path | None) -> tuple[dict[str, Codec], dict[str, str]]:
    from audit import plugins
    from safety.watermarks.settings import codecs_of

    asked: list[Any] = list(names)
    if declared is not None:
        asked += _declared(declared)
    codecs, reasons = codecs_of(asked or plugins.names("watermarks"))
    for name in list(codecs):
        if not len(codecs[name].bits) and not hasattr(codecs[name], "present"):
            del codecs[name]
            reasons[name] = "it has no message to compare with: give one in --marks"
    if not codecs:
        raise AuditError("no watermark can be read: " + "; ".join(reasons_of(reasons)))
    return codecs, reasons


def _declared(path: Path) -> list[Mapping[str, Any]]:
    from audit.prompts.reading import text_of
    from audit.yaml_files import parsed

    content = parsed(text_of(path), str(path))
    if not isinstance(content, list) or not all(isinstance(one, Mapping) for one in content):
        raise AuditError(f"{path}: a list of marks, such as - {{method: dwtDct, message: SDV2}}")
    return content


def _calibrations(path: Path | None) -> dict[str, Calibration]:
    if path is None:
        return {}
    from safety.watermarks.calibration import load

    return {one.mark: one for one in load(path)}


def _attacks(asked: Sequence[str], model: str) -> tuple[list[Any], dict[str, list[float]]]:
    from safety.watermarks.attacks import ATTACKS, attack_of
    from safety.watermarks.regeneration import NAMES

    known = [*ATTACKS.values(), *_regenerations(model)]
    strengths: dict[str, list[float]] = {}
    for text in asked:
        name, _, values = text.partition("=")
        if name in NAMES and not model:
            raise AuditError(f"--attack {name} draws images anew: give the --model that does it")
        attack_of(name, known)
        try:
            given = [float(value) for value in values.split(",")] if values else []
        except ValueError as error:
            raise AuditError(
                f"--attack {text}: strengths are numbers, such as jpeg=90,50"
            ) from error
        strengths[name] = given
    chosen = [attack_of(name, known) for name in strengths] if strengths else known
    return chosen, {name: given for name, given in strengths.items() if given}


def _regenerations(model: str) -> list[Attack]:
    if not model:
        return []
    from audit.backends import open_backend
    from audit.backends.stable_diffusion import StableDiffusion
    from safety.watermarks.regeneration import regeneration

    backend = open_backend(model)
    if not isinstance(backend, StableDiffusion):
        raise AuditError(
            f"--model {model}: images are drawn anew by Stable Diffusion pipelines only"
        )
    return list(regeneration(backend))


def _forged(subjects: Sequence[Subject], calibrations: Mapping[str, Calibration]) -> Any:
    from safety.watermarks.spoofing import spoofing

    return spoofing(subjects, calibrations)


def _image(path: Path, unreadable: dict[str, str]) -> Image.Image | None:
    from safety.watermarks.checking import opened

    found = opened(path)
    if found.image is None:
        unreadable[str(path)] = found.reason
    return found.image


def _first(folder: Path, most: int, unreadable: dict[str, str]) -> list[Image.Image]:
    from safety.watermarks.checking import files_of
    from safety.watermarks.codecs import is_black

    def images() -> Iterator[Image.Image]:
        for path in files_of([folder]):
            image = _image(path, unreadable)
            if image is not None and is_black(image):
                unreadable[str(path)] = "black: no mark can be set on it"
            elif image is not None:
                yield image

    found = [image for image, _ in zip(images(), range(most), strict=False)]
    if not found:
        raise AuditError(f"no image of {folder} can be read")
    return found


def _drawn(found: Any) -> str:
    from audit.card.strokes import STYLE
    from audit.card.watermarks import attack_curves, panels

    frame = found.rename(columns={"tpr_low": "low", "tpr_high": "high"})
    fpr = float(frame["fpr"].min())
    title = f"Marks found after attacks, at a false-positive rate of {fpr:g}"
    drawn = attack_curves(panels(frame, fpr), name="attacks", title=title)
    # By itself the drawing has no page to take its style from.
    start = drawn.index(">") + 1
    return f"{drawn[:start]}<style>{STYLE}</style>{drawn[start:]}\n"
