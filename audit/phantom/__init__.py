"""The phantom: a small, real Stable Diffusion model with planted, known answers.

Importing this loads no torch. The weights' folders are `phantom` and `null` (diffusers pipelines),
`clip` (open_clip) and `reader`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NAMES: tuple[str, ...] = ("phantom", "null", "clip", "reader")
WEIGHTS = Path(__file__).parent / "weights"

__all__ = ["NAMES", "WEIGHTS", "path", "truth"]


def path(name: str = "phantom") -> Path:
    """Folder with the weights of "phantom", "null", "clip" or "reader"."""
    if name not in NAMES:
        raise ValueError(f"no phantom part {name!r}; there are {', '.join(NAMES)}")
    return WEIGHTS / name


def truth(name: str = "phantom") -> dict[str, Any]:
    """What was planted in "phantom" or "null", and what many of its samples show."""
    answers: dict[str, Any] = json.loads((path(name) / "truth.json").read_text("utf-8"))
    return answers
