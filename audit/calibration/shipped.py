"""The results that later audits carry: read, found by the toolkit's version, and put in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from audit import suites
from audit.errors import AuditError

SCHEMA = 1
TOOLKIT = "t2i-audit"


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

    >>> found = {"coverage": 0.95, "coverage_ci": [0.94, 0.96], "intervals": 2000, "planted": 0,
    ...          "absent": 0}
    >>> sentence({"toolkit": "1.0", "size": "full", "date": "2026-11-30", "overall": found,
    ...           "passed": True, "failures": []})[-70:]
    '95% intervals held the true value in 95.0% of 2,000 (94.0% to 96.0%).'
    """
    everything = result["overall"]
    parts = [f"95% intervals held the true value in {share(everything, 'coverage', 'intervals')}"]
    if everything["planted"]:
        parts.append(
            f"planted effects of the stated size were found in "
            f"{share(everything, 'power', 'planted')}"
        )
    if everything["absent"]:
        parts.append(
            f"what was not there was accused in {share(everything, 'false_alarms', 'absent')}"
        )
    text = (
        f"This version of the toolkit, {result['toolkit']}, was tested on known answers "
        f"({result['size']} calibration, {result['date']}): {'; '.join(parts)}."
    )
    if not result["passed"]:
        text += f" It did not pass: {'; '.join(result['failures'])}."
    return text


def share(row: Mapping[str, Any], name: str, of: str) -> str:
    """A share of a result's row, what it is a share of, and its interval.

    >>> share({"power": 1.0, "planted": 30, "power_ci": [0.886, 1.0]}, "power", "planted")
    '100.0% of 30 (88.6% to 100.0%)'
    """
    low, high = row[f"{name}_ci"]
    return f"{row[name]:.1%} of {row[of]:,} ({low:.1%} to {high:.1%})"
