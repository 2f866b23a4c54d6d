"""What ``t2i-audit watermark`` prints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from safety.watermarks.calibration import Calibration


def answer_line(answer: Mapping[str, Any]) -> str:
    """A file's answer in one line."""
    if answer["outcome"] == "unreadable":
        return f"{answer['file']}: unreadable: {answer['reason']}"
    if answer["outcome"] == "ok":
        said = "; ".join(_mark(mark) for mark in answer["marks"] if mark["found"])
        if not said:
            least = min(answer["marks"], key=lambda mark: mark["p"])
            p = f"{least['corrected_p']:.2g} {least['kind']}"
            said = f"no known mark (smallest p {p}, {least['mark']})"
    else:
        said = {"black": "black, nothing to decode", "small": "too small for these marks"}[
            answer["outcome"]
        ]
    return f"{answer['file']}: {said}{_credentials(answer['c2pa'])}"


def _mark(mark: Mapping[str, Any]) -> str:
    read = "its own check" if mark["matches"] is None else f"{mark['matches']} of {mark['bits']}"
    inverted = ", inverted" if mark["inverted"] else ""
    p = f"p {mark['corrected_p']:.2g} {mark['kind']}"
    return f"{mark['mark']} ({read}, {mark['domain']}{inverted}) {p}"


def _credentials(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    if found["state"] == "ManifestNotFound":
        return "; no C2PA manifest"
    codes = f" ({', '.join(found['codes'])})" if found["codes"] else ""
    by = f", signed by {found['signer']}" if found["signer"] else ""
    says = f", says {found['source_type']}" if found["source_type"] else ""
    return f"; C2PA {found['state']}{codes}{by}{says}"


def say_summary(document: Mapping[str, Any], names: Sequence[str]) -> None:
    """What holds for all files together."""
    counts = ", ".join(f"{count} {name}" for name, count in document["outcomes"].items())
    found = ", ".join(f"{name} in {count}" for name, count in document["found"].items()) or "none"
    click.echo(
        f"{document['files']} files ({counts}); looked for {', '.join(names)}, for "
        f"whose number p-values are corrected; found {found}"
    )
    click.echo(
        f"at a rate of {document['fpr']:g}, {document['expected_false_alarms']:.2g} unmarked "
        "images among these are expected to be taken for marked, if p-values keep their promise"
    )
    nominal = any(
        mark["kind"] == "nominal" for a in document["answers"] for mark in a.get("marks", ())
    )
    if nominal:
        click.echo("nominal p-values are binomial, and real images do not keep to it: calibrate")
    say_left_out(document["left_out"])


def say_calibration(made: Calibration) -> None:
    """What clean images say of a mark's p-values."""
    report = made.report
    click.echo(f"{made.mark}: {report.images} clean images of {made.population}")
    for title, rates in (("nominal", report.nominal), ("calibrated", report.held_out)):
        said = ", ".join(
            f"{one.alpha:g} → {one.rate:.2g} ({one.events} of {one.n})" for one in rates
        )
        click.echo(f"  {title}, promised → realised: {said}")
    for key in report.keys:
        if key.alpha == 1e-3:
            click.echo(
                f"  {key.keys} random keys at {key.alpha:g}: mean {key.mean:.2g}, worst "
                f"{key.worst:.2g}, all zeros {key.zeros:.2g}"
            )
    spread = ", ".join(f"{value:.2f}" for value in report.dispersion)
    click.echo(
        f"  overdispersion {spread} (1: fair coins); smallest p {report.smallest_p:.2g}; halves "
        f"alike: Kolmogorov-Smirnov p {report.uniformity:.2g}"
    )
    for title, reason in (
        ("nominal p-value refused", report.nominal_refusal),
        ("calibration refused", report.refusal),
    ):
        if reason:
            click.echo(f"  {title}: {reason}")


def say_robustness(found: Any) -> None:
    """The table of attacks, a line a strength."""
    for (mark, attack), rows in found.groupby(["mark", "attack"], sort=False):
        click.echo(f"{mark}, {attack}:")
        for _, at in rows.groupby("strength", sort=False, dropna=False):
            first = at.iloc[0]
            rates = ", ".join(
                f"{row['tpr']:.0%} at {row['fpr']:g}" for row in at.to_dict("records")
            )
            strength = "" if math.isnan(first["strength"]) else f"{first['strength']:g}: "
            click.echo(
                f"  {strength}bits {first['bit_accuracy']:.1%}, found {rates} of {first['n']} "
                f"images, PSNR {first['psnr']:.1f} dB, SSIM {first['ssim']:.3f}"
            )


def say_forgeries(found: Any) -> None:
    """How many clean images are taken for marked once a mark is forged on them."""
    for (mark, forgery), rows in found.groupby(["mark", "forgery"], sort=False):
        for _, at in rows.groupby("strength", sort=False, dropna=False):
            first = at.iloc[0]
            rates = ", ".join(
                f"{row['accepted']:.0%} at {row['fpr']:g}" for row in at.to_dict("records")
            )
            what = (
                "unforged"
                if math.isnan(first["strength"])
                else f"{forgery} × {first['strength']:g}"
            )
            click.echo(f"{mark}, {what}: accepted {rates} of {first['n']} images")


def say_left_out(reasons: Mapping[str, str]) -> None:
    """Marks that could not be used, with the reason."""
    for name, why in reasons.items():
        click.echo(f"left out: {name}: {why}")


def reasons_of(reasons: Mapping[str, str]) -> list[str]:
    """``name: why`` for each; without any, that there is none."""
    return [f"{name}: {why}" for name, why in reasons.items()] or ["none is installed"]
