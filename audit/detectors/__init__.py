"""Detectors: images in, columns of raw scores out."""

from .base import Batch, Detector, Item

__all__ = ["Batch", "Detector", "Item"]
