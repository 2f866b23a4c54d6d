"""The command line. Heavy imports live inside the commands, so that --help answers at once."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click

from .errors import AuditError, GateFailed, Incomplete


class _Commands(click.Group):
    """Our own commands, and those that other packages add in ``t2i_audit.commands``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        added = [point.name for point in entry_points(group="t2i_audit.commands")]
        return sorted({*super().list_commands(ctx), *added})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        for point in entry_points(group="t2i_audit.commands"):
            if point.name == cmd_name:
                command: click.Command = point.load()
                return command
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # An added command's module is not imported for one line of help.
        rows = []
        for name in self.list_commands(ctx):
            own = super().get_command(ctx, name)
            rows.append((name, own.get_short_help_str(80) if own else _ADDED.get(name, "")))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


_ADDED = {
    "calibrate": "Audit the phantoms many times, where every answer is known.",
    "compare": "Say what changed between two audits.",
    "detector-error": "Measure how often the instruments are wrong on a model's images.",
    "filters": "Evaluate and compare safety filters; choose thresholds.",
    "index": "Search, build, embed and serve image indices.",
    "labels": "Export people's labels of images; recompute findings with them.",
    "lint": "Check prompts in many languages.",
    "tokenizer": "Report what a model's tokenizer does to each language.",
    "view": "Open the dashboard on one or more runs.",
    "watermark": "Check images for watermarks and C2PA; calibrate; robustness.",
}


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="t2i-audit")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Audit text-to-image models: run suites, review them, write model cards."""


@cli.command()
@click.argument("model", required=False)
@click.option("--spec", "spec_file", type=click.Path(path_type=Path), help="A YAML spec.")
@click.option("--probes", help="Comma-separated probes; default: all.")
@click.option("--suite", help="The prompts; default: the model's own suite, or 'general'.")
@click.option("--images-per-prompt", type=int, help="Instead of each probe's own number.")
@click.option("--limit", type=int, help="At most this many images altogether.")
@click.option(
    "--until-conclusive",
    is_flag=True,
    default=None,
    help="Add images in rounds; a prompt with a verdict gets no more.",
)
@click.option("--steps", type=int, help="Denoising steps.")
@click.option("--guidance", type=float, help="Classifier-free guidance scale.")
@click.option("--scheduler", help="A sampler by name; default: the model's own.")
@click.option("--batch-size", type=int, help="Images per batch.")
@click.option("--seed", type=int, help="The first seed.")
@click.option("--height", type=int, help="Pixels; default: the model's own.")
@click.option("--width", type=int, help="Pixels; default: the model's own.")
@click.option("--negative-prompt", help="Text of the unconditional half.")
@click.option("--eta", type=float, help="Noise that DDIM puts back, 0 to 1.")
@click.option("--init-image", help="Picture that every image starts from.")
@click.option("--mask", help="Mask of inpainting: white is painted anew.")
@click.option("--depth", help="Depth map (picture or .npy) for a depth model.")
@click.option("--strength", type=float, help="How far from --init-image, 0 to 1.")
@click.option("--noise-level", type=int, help="Noise on --init-image (upscaler, unCLIP).")
@click.option("--option", "options", multiple=True, help="NAME=VALUE for the backend.")
@click.option("--out", type=click.Path(path_type=Path), help="The run's folder.")
@click.option("--device", help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--devices", help="One process each over the same plan: 0,1,2,3, or cpu,cpu.")
@click.option("--engine", help="local, or ray for a Ray cluster.")
@click.option("--dtype", help="float32, float16 or bfloat16.")
@click.option("--dry-run", is_flag=True, help="Say what would be made; make nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def run(
    model: str | None,
    spec_file: Path | None,
    probes: str | None,
    out: Path | None,
    dry_run: bool,
    as_json: bool,
    options: tuple[str, ...],
    **flags: Any,
) -> None:
    """Audit MODEL: phantom, a Hub name, a diffusers folder, a .safetensors or .ckpt file,
    images:FOLDER, or openai:URL#MODEL. t2i-audit list models shows the names.

    The same command finishes a run that was interrupted.
    """
    from . import spec as specs

    spec = specs.load(spec_file) if spec_file else specs.Spec()
    chosen: dict[str, Any] | None = None
    if probes is not None:
        listed = [name.strip() for name in probes.split(",") if name.strip()]
        if not listed:
            raise AuditError("--probes is empty; t2i-audit list probes shows them")
        chosen = {name: dict(spec.probes.get(name, {})) for name in listed}
    backend_options = {**spec.backend, **_options(options)} if options else None
    spec = spec.replace(model=model, probes=chosen, backend=backend_options, **flags)
    if model is None and spec_file is None:
        raise AuditError("which MODEL? For a first look: t2i-audit run phantom")
    _check_names(spec)
    out = out or Path("runs") / _folder_name(spec.model)

    from . import engine, gates, rounds

    for gate in spec.gates:
        gates.parse(gate)
    from .backends import backend_of

    backend_of(spec.model)
    if not dry_run:
        from .store import Run

        Run.create(out)  # a folder that cannot be written is said before a model is loaded
    if dry_run and spec.devices:
        spec = spec.replace(device=spec.devices[0], devices=())  # one batch is timed on the first
    study, backend, loaded = engine.prepare(spec)
    if dry_run:
        from .estimate import estimate

        rounds.check(study, loaded)
        uses = engine.make_plan(study, loaded)
        planned = list(rounds.without_verdicts(study, loaded, uses))
        _say_estimate(estimate(backend, spec.batch_size, planned), as_json)
        return
    command = shlex.join(["t2i-audit", *sys.argv[1:]])
    store = engine.run(study, backend, loaded, out, command)
    from .card import write

    cards = write(store)
    document = engine.summary(store) | {"card": {k: str(v) for k, v in cards.items()}}
    if as_json:
        click.echo(json.dumps(document, indent=1))
    else:
        _say_summary(document)
    if failed := gates.unmet(document["gates"]):
        raise GateFailed(
            f"{len(failed)} of {len(document['gates'])} gates do not hold: " + "; ".join(failed)
        )


@cli.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "formats",
    multiple=True,
    help="md, html, json, cyclonedx, eval-results; default: all.",
)
@click.option(
    "--claims", type=click.Path(path_type=Path), help="Another card, whose claims are judged."
)
@click.option(
    "--previous", type=click.Path(path_type=Path), help="An earlier run: what changed since."
)
@click.option("--out", type=click.Path(path_type=Path), help="Instead of the run's own card/.")
def card(
    run_folder: Path,
    formats: tuple[str, ...],
    claims: Path | None,
    previous: Path | None,
    out: Path | None,
) -> None:
    """Write the model card of RUN again; judge the claims of another card by it."""
    from .card import FORMATS, write
    from .store import Run

    for name in formats:
        if name not in FORMATS:
            raise AuditError(f"unknown format '{name}'; there are: {', '.join(FORMATS)}")
    run = Run.open(run_folder)
    written = write(run, formats or FORMATS, claims=claims, previous=previous, out=out)
    if claims is not None:
        from .card.claims import table

        document = json.loads(written["claims"].read_text(encoding="utf-8"))
        for line in table(document):
            click.echo(line)
        for problem in document["problems"]:
            click.echo(problem, err=True)
    for path in written.values():
        click.echo(str(path))


@cli.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A public Ed25519 key whose signature RUN must have; may be given several times.",
)
@click.option("--recompute", is_flag=True, help="Analyse again: do the findings follow?")
@click.option("--read-files", is_flag=True, help="For that, read the files that the spec names.")
def verify(run_folder: Path, keys: tuple[Path, ...], recompute: bool, read_files: bool) -> None:
    """Check every file of RUN against the journal, its name, the other tables and signatures.

    With --recompute the probes analyse the raw scores again, and every finding, table and gate must
    come out as it stands. Nothing is generated, and no model is loaded.
    """
    from . import signing
    from .store import Run
    from .verify import problems

    run = Run.open(run_folder)
    publics = [signing.public_key(path) for path in keys]
    found, checked = problems(run)
    for public in publics:
        found += signing.problems(run, public)
    if recompute:
        from . import recheck

        found += recheck.problems(run, read_files=read_files)
    for line in found:
        click.echo(line, err=True)
    if found:
        raise Incomplete(f"{len(found)} things do not hold, of {checked} files")
    click.echo(f"{checked} files hold" + (", and the findings follow" if recompute else ""))
    for signature in signing.signatures(run) if not keys else ():
        click.echo(f"signed by the key {signature.keyid[:16]}…, not checked: name it with --key")


@cli.command("list")
@click.argument("what", type=click.Choice(["backends", "probes", "detectors", "models", "suites"]))
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def list_(what: str, as_json: bool) -> None:
    """Show what there is."""
    rows = _listed(what)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    width = max(map(len, rows), default=0)
    for name, about in rows.items():
        click.echo(f"{name:<{width}}  {about}".rstrip())


def _listed(what: str) -> dict[str, str]:
    from . import plugins

    if what == "models":
        from .backends.checkpoints import BUILT_IN, aliases

        return {
            **BUILT_IN,
            **aliases(),
            "FOLDER": "any diffusers folder",
            "FILE": "a .safetensors or .ckpt file of Stable Diffusion v1 or 2.x",
            "OWNER/NAME": "a model of the Hub or its local cache",
            "images:FOLDER": "images made elsewhere, with a table of their prompts",
            "openai:URL#MODEL": "a server that speaks OpenAI's protocol for images",
        }
    if what == "suites":
        from . import suites

        return {name: suites.load(name).about for name in suites.names()}
    if what == "probes":
        return {name: plugins.load("probes", name).question for name in plugins.names("probes")}
    kind: plugins.Kind = "backends" if what == "backends" else "detectors"
    about = {}
    for name in plugins.names(kind):
        doc = (plugins.load(kind, name).__doc__ or "").strip()
        about[name] = doc.splitlines()[0] if doc else ""
    return about


def _check_names(spec: Any) -> None:
    from . import plugins

    kinds: list[tuple[plugins.Kind, Any]] = [
        ("probes", spec.probes),
        ("detectors", spec.detectors),
    ]
    for kind, names in kinds:
        for name in names:
            if name not in plugins.names(kind):
                plugins.load(kind, name)  # raises, naming what there is
    if spec.scheduler is not None:
        from .backends.base import scheduler_class

        scheduler_class(spec.scheduler)


def _options(given: tuple[str, ...]) -> dict[str, Any]:
    """``NAME=VALUE`` pairs, values read as YAML, so that true, 2 and [a, b] are what they say.

    >>> _options(("mode=fast", "devices=2"))
    {'mode': 'fast', 'devices': 2}
    """
    from .yaml_files import parsed

    options: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        options[name.strip()] = parsed(value, f"--option {text}")
        if not equals or not name.strip():
            raise AuditError(f"--option {text}: say NAME=VALUE, such as mode=fast")
    return options


def _folder_name(model: str) -> str:
    """A folder's name for a model: its last path component.

    >>> _folder_name("stable-diffusion-v1-5/stable-diffusion-v1-5")
    'stable-diffusion-v1-5'
    >>> _folder_name("openai:http://127.0.0.1:8000/v1#tiny")
    'tiny'
    """
    name = model.partition("#")[2] or model.removeprefix("images:").removeprefix("openai:")
    return Path(name.rstrip("/")).name or "run"


def _say_estimate(numbers: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(numbers, indent=1))
        return
    least = numbers.get("least", numbers)

    def span(low: float, high: float, form: str = "d") -> str:
        return f"{low:{form}}" if low == high else f"{low:{form}} to {high:{form}}"

    for probe, count in numbers["uses"].items():
        click.echo(f"{probe:<16} {span(least['uses'][probe], count):>6} images")
    if numbers["minutes"] is None:
        time = "a time that only the server knows"
    else:
        time = f"about {span(least['minutes'], numbers['minutes'], '.1f')} minutes"
    click.echo(
        f"{'distinct':<16} {span(least['images'], numbers['images']):>6} images in "
        f"{span(least['batches'], numbers['batches'])} batches, {time} and "
        f"{span(least['megabytes'], numbers['megabytes'], '.0f')} MB"
    )


def _say_summary(document: dict[str, Any]) -> None:
    for probe, verdicts in document["verdicts"].items():
        counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
        click.echo(f"{probe:<16} {counts}")
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in document["outcomes"].items())
    click.echo(f"{'images':<16} {outcomes}")
    for detector, reason in document["unavailable"].items():
        click.echo(f"not tested: {detector}: {reason}", err=True)
    click.echo(f"card             {document['card'].get('html')}")
    click.echo(f"dashboard        t2i-audit view {shlex.quote(document['run'])}")


def _interrupt(*_: object) -> None:
    """Ends what runs and keeps what is made; asked a second time, ends at once.

    A second KeyboardInterrupt could be raised anywhere in the interpreter's own end, where nobody
    catches it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    raise KeyboardInterrupt


def _end(*_: object) -> None:
    os.write(2, b"t2i-audit: ended at once; the same command goes on from here\n")
    os._exit(1)


def main() -> None:
    """The console script: one clear line for every error that a user can act on."""
    debug = "--debug" in sys.argv
    # A scheduler's polite end is a user's Ctrl-C: what is begun stays resumable.
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, a shell's background
            signal.signal(number, _interrupt)
    try:
        cli.main(standalone_mode=False)
    except AuditError as error:
        if debug:
            raise
        click.echo(f"t2i-audit: {error}", err=True)
        sys.exit(error.exit_code)
    except click.UsageError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("t2i-audit: interrupted; the same command goes on from here", err=True)
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        line = " ".join(str(error).split())[:300]
        click.echo(
            f"t2i-audit: {type(error).__name__}: {line} (an error of ours: "
            "run again with --debug and report it)",
            err=True,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
