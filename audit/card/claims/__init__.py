"""Claims of existing cards, held against the findings of a run."""

from .judging import OUTCOMES, check
from .reading import read
from .table import table

__all__ = ["OUTCOMES", "check", "read", "table"]
