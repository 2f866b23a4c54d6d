"""Nearest neighbours in embedded image collections."""

from .exact import Neighbours, search
from .folder import EmbeddingFolder

__all__ = ["EmbeddingFolder", "Neighbours", "search"]
