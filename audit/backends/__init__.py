"""Where images come from."""

from .base import SCHEDULERS, Backend, Result

__all__ = ["SCHEDULERS", "Backend", "Result"]
