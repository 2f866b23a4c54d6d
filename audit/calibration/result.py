"""The result of a calibration: the file that later audits carry, found by the toolkit's version."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from audit import suites
from audit.engine import PACKAGES
from audit.errors import AuditError
from audit.statistics import rate

from .pool import SEED, Pool, Size
from .tally import COVERAGE, FALSE_ALARMS, POWER, Outcome, Tally, failures

SCHEMA = 1
TOOLKIT = "t2i-audit"
RESULT = "calibration.json"
PAGE = "calibration.html"


def document(tally: Tally, pools: Mapping[str, Pool], size: Size) -> dict[str, Any]:
    """Everything that was planted and found, with what it was done with."""
    effects, checks = tally.effects(), [vars(check) for check in tally.checks]
    probes = _probes(tally.outcomes)
    why = [
        f"{row['probe']}, {row['variant']}, {row['metric']} ({row['said']}): {one}"
        for row in effects
        for one in row["failures"]
    ]
    why += [f"{name}: {one}" for name, row in probes.items() for one in row["failures"]]
    why += [
        f"{check.probe}: not so: {check.said} ({check.detail})"
        for check in tally.checks
        if not check.passed
    ]
    return {
        "schema": SCHEMA,
        "toolkit": version(TOOLKIT),
        "size": size.name,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "seed": SEED,
        "sub_audits": size.sub_audits,
        "allowed": {"coverage": list(COVERAGE), "power": POWER, "false_alarms": FALSE_ALARMS},
        "versions": {name: version(name) for name in PACKAGES},
        "models": {
            name: {
                "images": pool.records.num_rows,
                "weights": pool.run.info["backend"].get("weights", {}),
            }
            for name, pool in pools.items()
        },
        "overall": _together(tally.outcomes),
        "probes": probes,
        "effects": effects,
        "detectors": tally.detectors(),
        "checks": checks,
        "failures": why,
        "passed": not why,
    }


def _probes(outcomes: Iterable[Outcome]) -> dict[str, dict[str, Any]]:
    by: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by.setdefault(outcome.effect.probe, []).append(outcome)
    found = {}
    for probe, mine in sorted(by.items()):
        row = _together(mine)
        # Of intervals that may cover always, the share is no sign of too wide ones.
        strict = _together([o for o in mine if not o.effect.open])
        held = {"role": "between", "open": False, **strict}
        found[probe] = row | {"failures": failures(held) if strict["intervals"] else []}
    return found


def _together(outcomes: list[Outcome]) -> dict[str, Any]:
    """Coverage of all intervals; power over the planted effects; false alarms over the absent."""

    def share(chosen: list[Outcome], events: list[bool]) -> tuple[float | None, list[float] | None]:
        found = rate(events, [f"{o.effect.variant} {o.audit}" for o in chosen])
        return found.estimate, None if found.ci is None else list(found.ci)

    planted = [o for o in outcomes if o.effect.role == "planted"]
    absent = [o for o in outcomes if o.effect.role == "null"]
    coverage, coverage_ci = share(outcomes, [o.covered for o in outcomes])
    power, power_ci = share(planted, [o.verdict == "exceeds" for o in planted])
    alarms, alarms_ci = share(absent, [o.verdict == "exceeds" for o in absent])
    return {
        "intervals": len(outcomes),
        "coverage": coverage,
        "coverage_ci": coverage_ci,
        "planted": len(planted),
        "power": power,
        "power_ci": power_ci,
        "absent": len(absent),
        "false_alarms": alarms,
        "false_alarms_ci": alarms_ci,
    }


def shipped(toolkit: str) -> Path:
    """Where the result of a version lies, if it was ever calibrated."""
    return suites.datasets() / f"calibration/toolkit-{Path(toolkit).name}.json"


def of_version(toolkit: str) -> dict[str, Any] | None:
    """The shipped result of a version of the toolkit; ``None``: there is none."""
    path = shipped(toolkit)
    return load(path) if path.is_file() else None


def load(path: Path) -> dict[str, Any]:
    """Read a result.

    Raises:
        AuditError: it cannot be read, or is none.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found["schema"] != SCHEMA:
            raise AuditError(f"{path}: schema {found['schema']}, this version reads {SCHEMA}")
        for key in ("toolkit", "overall", "probes", "effects", "detectors", "checks", "passed"):
            found[key]
    except OSError as error:
        raise AuditError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise AuditError(
            f"{path} is no result of t2i-audit calibrate ({type(error).__name__}: {error})"
        ) from error
    return found


def sentence(result: Mapping[str, Any]) -> str:
    """What a card says of it.

    >>> share = {"coverage": 0.95, "coverage_ci": [0.94, 0.96], "intervals": 2000, "power": 1.0,
    ...          "planted": 300, "false_alarms": 0.01, "absent": 900}
    >>> sentence({"toolkit": "1.0", "size": "full", "date": "2026-11-30", "overall": share,
    ...           "passed": True, "failures": []})[-54:]
    'of 300; what was not there was accused in 1.0% of 900.'
    """
    all_ = result["overall"]
    low, high = all_["coverage_ci"]
    text = (
        f"This version of the toolkit, {result['toolkit']}, was tested on known answers "
        f"({result['size']} calibration, {result['date']}): 95% intervals held the true value in "
        f"{all_['coverage']:.1%} of {all_['intervals']:,} ({low:.1%} to {high:.1%}); planted "
        f"effects of the stated size were found in {all_['power']:.1%} of {all_['planted']:,}; "
        f"what was not there was accused in {all_['false_alarms']:.1%} of {all_['absent']:,}."
    )
    if not result["passed"]:
        text += f" It did not pass: {'; '.join(result['failures'])}."
    return text
