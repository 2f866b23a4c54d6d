"""``t2i-audit filters``: what filters do on labelled images or scores, without making any image."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audit.errors import AuditError

from .output import echo_json

if TYPE_CHECKING:
    from audit.study import Study
    from safety.evaluating.thresholds import Costs
    from safety.labelled_sets import LabelledSet
    from safety.scoring import Scored


@click.group()
def filters() -> None:
    """Evaluate, compare and tune safety filters on a labelled set.

    SET is a CSV with a column label (1 or 0, unsafe or safe, …) and one of scores for each filter,
    or with a column image (for filters of prompts: prompt); a folder with such a CSV, or with the
    subfolders safe and unsafe; UnsafeBench's Parquet files; or I2P's CSV with its shipped scores.
    Columns category, source, group, language, prompt, pair and seed are used where they are there.
    """


_OPTIONS = [
    click.argument("place", metavar="SET", type=click.Path(path_type=Path)),
    click.option(
        "--filter", "names", multiple=True, help="Run this filter on SET's images or prompts."
    ),
    click.option("--model", default="", help="Whose safety checker, for --filter safety-checker."),
    click.option(
        "--spec", type=click.Path(path_type=Path), help="Options of detectors and filters."
    ),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda."),
    click.option(
        "--score", "columns", multiple=True, help="Of a CSV, the columns that are scores."
    ),
    click.option(
        "--margins", is_flag=True, help="Scores are any numbers, blocked from 0; no probabilities."
    ),
    click.option("--threshold", "thresholds", multiple=True, metavar="[SCORE=]VALUE"),
    click.option("--category", help="Only these rows."),
    click.option("--source", help="Only these rows."),
    click.option("--level", type=click.FloatRange(0.5, 0.999), default=0.95, show_default=True),
    click.option(
        "--save",
        type=click.Path(path_type=Path),
        help="With --filter: keep its scores as a CSV SET.",
    ),
    click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout."),
]
_COSTS = [
    click.option(
        "--cost-miss", type=float, help="Declared cost of a restricted image let through."
    ),
    click.option("--cost-block", type=float, help="Declared cost of a harmless image blocked."),
    click.option("--prevalence", type=float, help="Share of restricted images in deployment."),
]


def _with(*options: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@filters.command()
@_with(*_OPTIONS, *_COSTS)
def evaluate(
    cost_miss: float | None,
    cost_block: float | None,
    prevalence: float | None,
    level: float,
    as_json: bool,
    **asked: Any,
) -> None:
    """Errors of each filter with intervals: AUC, misses at fixed false-block rates, calibration,
    categories and sources, gaps between groups, cost."""
    from safety.evaluating.report import evaluate as report

    costs = _costs(cost_miss, cost_block, prevalence)
    labelled, scored = _opened(**asked)
    document = report(labelled, scored, costs, level)
    if as_json:
        echo_json(document)
        return
    click.echo(
        f"{document['set']}: {document['images']} images, {document['restricted']} restricted"
    )
    if "note" in document:
        click.echo(f"note: {document['note']}")
    for one in document["filters"]:
        _say(one)
    for row in document.get("inappropriate", []):
        click.echo(
            f"{row['category']}: inappropriate {_share(row['probability'], row['probability_ci'])},"
            f" expected maximum of {row['drawn']} prompts "
            f"{_share(row['expected_maximum'], row['maximum_ci'])}, {row['prompts']} prompts"
        )


@filters.command()
@_with(*_OPTIONS)
def compare(level: float, as_json: bool, **asked: Any) -> None:
    """Each two filters: agreement, Cohen's kappa, McNemar's tests, difference of the AUC. All of
    them: what a cross-validated stack gains over the best single one."""
    from safety.evaluating.report import compare as report

    labelled, scored = _opened(**asked)
    document = report(labelled, scored, level)
    if as_json:
        echo_json(document)
        return
    for pair in document["pairs"]:
        kappa = "—" if pair["kappa"] is None else f"{pair['kappa']:.3f}"
        click.echo(
            f"{' and '.join(pair['filters'])}: alike on {pair['equal']} of {pair['images']}, "
            f"Cohen's kappa {kappa}"
        )
        for kind in ("miss_rate", "false_block_rate"):
            if found := pair[kind]:
                click.echo(
                    f"  {kind.replace('_', ' ')}, difference {_signed(found)}, "
                    f"McNemar's p {found['p']:.2g}, adjusted {found['adjusted_p']:.2g}"
                )
        if pair["auc"]:
            click.echo(f"  AUC, difference {_signed(pair['auc'])}")
    stacked = document["stack"]
    if "not_tested" in stacked:
        click.echo(f"stack of all: not tested: {stacked['not_tested']}")
        return
    click.echo(
        f"stack of all, cross-validated on {stacked['n']} images: AUC {stacked['auc']:.4f}; the "
        f"best alone, mostly {stacked['best']}, {stacked['best_auc']:.4f}; gain "
        f"{stacked['gain']:+.4f}{_ci(stacked['ci'])}"
    )


@filters.command()
@_with(*_OPTIONS, *_COSTS)
def thresholds(
    cost_miss: float | None,
    cost_block: float | None,
    prevalence: float | None,
    level: float,
    as_json: bool,
    **asked: Any,
) -> None:
    """Both errors at every threshold, and the operating points."""
    from safety.evaluating.report import truth_of
    from safety.evaluating.thresholds import operating_points, sweep

    costs = _costs(cost_miss, cost_block, prevalence)
    labelled, scored = _opened(**asked)
    found: list[dict[str, Any]] = []
    for one in scored:
        scores, truth = one.scores[one.known], truth_of(labelled, one)
        found.append(
            {
                "filter": one.name,
                "points": operating_points(scores, truth, costs),
                "thresholds": sweep(scores, truth, costs, level).to_dict("records"),
            }
        )
    if as_json:
        echo_json({"set": labelled.name, "level": level, "filters": found})
        return
    for row in found:
        click.echo(
            f"{row['filter']}: " + ", ".join(f"{k} {v:.4g}" for k, v in row["points"].items())
        )
        for at in row["thresholds"]:
            cost = f"  cost {at['cost']:.4g}" if "cost" in at else ""
            missed = _share(at["fnr"], (at["fnr_low"], at["fnr_high"]))
            false = _share(at["fpr"], (at["fpr_low"], at["fpr_high"]))
            click.echo(f"  {at['threshold']:>9.4g}  missed {missed}  blocked falsely {false}{cost}")


def _opened(
    place: Path,
    names: Sequence[str],
    model: str,
    spec: Path | None,
    device: str,
    columns: Sequence[str],
    margins: bool,
    thresholds: Sequence[str],
    category: str | None,
    source: str | None,
    save: Path | None,
) -> tuple[LabelledSet, list[Scored]]:
    """The set, and what each filter says of its rows."""
    from safety.labelled_sets import open_set
    from safety.scoring import from_columns, from_images, table_of

    if save and not names:
        raise AuditError("--save keeps the scores of a --filter: name one")
    if names and (thresholds or margins or columns):
        raise AuditError(
            "--score, --threshold and --margins are of a CSV's scores: a --filter has its own, and "
            "--spec declares its threshold anew"
        )
    labelled = open_set(place, None if names else columns, None if margins else (0.0, 1.0))
    for column, value in (("category", category), ("source", source)):
        if value is not None:
            labelled = labelled.only(column, value)
    if names:
        study = _study(spec, model, device)
        if "safety-checker" in names and study.model_path is None:
            raise AuditError("--filter safety-checker: whose? Name the model with --model")
        scored = from_images(labelled, list(dict.fromkeys(names)), study)
        if save:
            try:
                table_of(labelled, scored).to_csv(save, index=False)
            except OSError as error:
                raise AuditError(f"cannot write {save}: {error.strerror}") from error
    elif labelled.scores:
        given = _thresholds(thresholds, labelled.scores, margins)
        scored = from_columns(labelled, given, 0.0 if margins else 0.5, not margins)
    else:
        kind = "images" if labelled.pictures else "prompts"
        raise AuditError(f"{place} holds {kind} and no scores: say which --filter looks at them")
    return labelled, scored


def _study(path: Path | None, model: str, device: str) -> Study:
    """What a detector must know where there is no run."""
    from audit import plugins, spec, suites
    from audit.backends.checkpoints import BUILT_IN, resolve
    from audit.study import Study

    settings = (spec.load(path) if path else spec.Spec()).replace(device=device)
    for name in settings.detectors:
        plugins.load("detectors", name)
    if model:
        settings = settings.replace(model=model)
    suite = suites.load("phantom") if model in BUILT_IN else suites.Suite("labelled", "", {})
    return Study(settings, suite, resolve(model) if model else None)


def _thresholds(given: Sequence[str], scores: Sequence[str], margins: bool) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in given:
        name, _, value = text.rpartition("=")
        try:
            number = float(value)
        except ValueError as error:
            raise AuditError(f"--threshold {text}: '{value}' is not a number") from error
        if not math.isfinite(number) or not (margins or 0 <= number <= 1):
            reach = "finite" if margins else "between 0 and 1, as the scores are without --margins"
            raise AuditError(f"--threshold {text}: a threshold is {reach}")
        found |= dict.fromkeys([name] if name else scores, number)
    return found


def _costs(miss: float | None, block: float | None, prevalence: float | None) -> Costs | None:
    from safety.evaluating.thresholds import Costs

    given = (miss, block, prevalence)
    if all(value is None for value in given):
        return None
    if miss is None or block is None or prevalence is None:
        raise AuditError("a cost needs --cost-miss, --cost-block and --prevalence together")
    try:
        return Costs(miss, block, prevalence)
    except ValueError as error:
        raise AuditError(str(error)) from error


def _say(one: Mapping[str, Any]) -> None:
    counts = ", ".join(f"{count} {outcome}" for outcome, count in one["outcomes"].items())
    click.echo(f"\n{one['filter']}: {counts}")
    click.echo(f"  AUC {one['auc']['estimate']:.4f}{_ci(one['auc']['ci'])}")
    for name in ("miss_rate", "false_block_rate"):
        click.echo(f"  {name.replace('_', ' ')} {_rate(one[name])}")
    for at in one["misses_at_fpr"]:
        if at["supported"]:
            said = f"{_share(at['estimate'], at['ci'])} at threshold {at['threshold']:.4g}"
        else:
            said = (
                f"not supported: {at['harmless']} harmless images reach {at['smallest_fpr']:.2g}, "
                f"{at['harmless_needed']} are needed"
            )
        click.echo(f"  miss rate at a false-block rate of {at['fpr']:g}: {said}")
    for at in one["precision_at_recall"]:
        click.echo(f"  precision at recall {at['recall']:g}: {_share(at['estimate'], at['ci'])}")
    if found := one["calibration"]:
        click.echo(
            f"  calibration error {found['ece']:.4f} ({found['floor']:.4f} if all were true, "
            f"p {found['p']:.2g}), Brier {found['brier']:.4f}{_ci(found['brier_ci'])}"
        )
    for row in one["slices"]:
        where = " · ".join(str(row[n]) for n in ("category", "source") if n in row)
        click.echo(
            f"  {where}: missed {_rate(row['miss_rate'])}, "
            f"blocked falsely {_rate(row['false_block_rate'])}"
        )
        for at in row["misses_at_fpr"]:
            if row["restricted"]:
                missed = _rate(at["miss_rate"])
                click.echo(
                    f"    at a false-block rate of {at['fpr']:g} of the whole: missed {missed}"
                )
    for gap in one["disparity"]:
        if "not_tested" in gap:
            click.echo(f"  gap by {gap['by']}: not tested: {gap['not_tested']}")
            continue
        click.echo(
            f"  {gap['by']} {gap['group']}: blocked falsely {gap['rate']:.1%}, others "
            f"{gap['other']:.1%}, difference {gap['estimate']:+.3f}{_ci(gap['ci'])}, "
            f"adjusted p {gap['adjusted']:.2g}{_unnamed(gap)}"
        )
    for name, at in (one.get("costs") or {}).items():
        if isinstance(at, Mapping):
            click.echo(f"  cost at {name} {at['threshold']:.4g}: {at['cost']:.4g}{_ci(at['ci'])}")


def _rate(found: Mapping[str, Any]) -> str:
    if found["estimate"] is None:
        return "not tested (0 images)"
    return f"{_share(found['estimate'], found['ci'])} ({found['events']} of {found['n']})"


def _share(value: float, ci: Sequence[float]) -> str:
    return f"{value:.2%} ({ci[0]:.2%} to {ci[1]:.2%})"


def _signed(found: Mapping[str, Any]) -> str:
    return f"{found['difference']:+.4f}{_ci(found['ci'])}"


def _unnamed(gap: Mapping[str, Any]) -> str:
    return f"; {gap['unnamed']} images of no {gap['by']} left out" if gap["unnamed"] else ""


def _ci(ci: Sequence[float]) -> str:
    return f" ({ci[0]:.4f} to {ci[1]:.4f})"
