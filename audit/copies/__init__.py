"""Measures of copying between images: pure functions on arrays, each as its paper has it.

Images are arrays of shape (height, width, 3) with values in [0, 1]; a set of them has one more
dimension in front. :func:`audit.copies.pixels.pixels` makes them from pictures.
"""

from .cliques import EXTRACTION, largest_clique
from .perceptual_hash import PDQ_MATCH, hamming, pdq_style
from .pixels import l2, l2_to_many, pixels, tiled_l2, tiled_l2_pairs
from .similarity import ms_ssim, ms_ssim_pairs, ssim
from .templates import WEBSTER, at_256, stable_mask, template_error, template_errors, verbatim_error

__all__ = [
    "EXTRACTION",
    "PDQ_MATCH",
    "WEBSTER",
    "at_256",
    "hamming",
    "l2",
    "l2_to_many",
    "largest_clique",
    "ms_ssim",
    "ms_ssim_pairs",
    "pdq_style",
    "pixels",
    "ssim",
    "stable_mask",
    "template_error",
    "template_errors",
    "tiled_l2",
    "tiled_l2_pairs",
    "verbatim_error",
]
