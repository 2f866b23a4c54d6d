"""What changed between two audits: matched findings, paired where the runs allow it."""

from .changes import Change, Comparison, compare, tally
from .opened import Opened

__all__ = ["Change", "Comparison", "Opened", "compare", "tally"]
