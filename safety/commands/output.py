"""One JSON document on stdout."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import click


def echo_json(document: Any) -> None:
    """Print a document; JSON knows neither numpy's numbers nor infinity, which become null."""
    click.echo(json.dumps(plain(document), indent=1))


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
