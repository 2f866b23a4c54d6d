"""Training state on disk."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def save(state: object, path: Path) -> None:
    """Writes under another name and renames, so that a killed training leaves no torn file."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)
