"""Prompts of `datasets/prompts/`: what is asked, read, varied by rule and checked. No torch."""

from .base import Prompt, article
from .demographics import Demographics, demographics
from .languages import ARMS, Parallel, homoglyph, parallel
from .lint import Problem, lint
from .references import Reference, reference

__all__ = [
    "ARMS",
    "Demographics",
    "Parallel",
    "Problem",
    "Prompt",
    "Reference",
    "article",
    "demographics",
    "homoglyph",
    "lint",
    "parallel",
    "reference",
]
