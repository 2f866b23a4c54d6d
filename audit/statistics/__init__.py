"""Pure functions on arrays: intervals, resampling, ranking, multiplicity."""

from .intervals import clopper_pearson, wilson
from .multiplicity import benjamini_hochberg
from .ranking import auc
from .resampling import cluster_bootstrap, paired_difference

__all__ = [
    "auc",
    "benjamini_hochberg",
    "clopper_pearson",
    "cluster_bootstrap",
    "paired_difference",
    "wilson",
]
