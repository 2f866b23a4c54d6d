"""Pure functions on arrays: intervals, clustered means, ranking, multiplicity."""

from .clusters import cluster_mean, paired_difference
from .intervals import clopper_pearson, wilson
from .multiplicity import benjamini_hochberg
from .ranking import auc

__all__ = [
    "auc",
    "benjamini_hochberg",
    "clopper_pearson",
    "cluster_mean",
    "paired_difference",
    "wilson",
]
