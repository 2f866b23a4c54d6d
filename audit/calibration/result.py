"""The result of a calibration as one JSON document."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from audit import plugins
from audit.engine import PACKAGES
from audit.statistics import rate

from .pool import SEED, Pool, Size
from .shipped import SCHEMA, TOOLKIT
from .tally import COVERAGE, FALSE_ALARMS, POWER, Outcome, Tally, failures

RESULT = "calibration.json"
PAGE = "calibration.html"


def document(tally: Tally, pools: Mapping[str, Pool], size: Size) -> dict[str, Any]:
    """Everything that was planted and found, with what it was done with."""
    effects, checks = tally.effects(), [vars(check) for check in tally.checks]
    probes, detectors = _probes(tally.outcomes), tally.detectors()
    why = [
        f"{row['probe']}, {row['variant']}, {row['metric']} ({row['said']}): {one}"
        for row in effects
        for one in row["failures"]
    ]
    why += [
        f"{row['detector']}, {row['of']}: {one}" for row in detectors for one in row["failures"]
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
        "detectors": detectors,
        "without_answer": tally.without_answer(plugins.names("detectors")),
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
