"""Pure functions on arrays: what a share is, how sure, and how far from a reference."""

from .agreement import cohen_kappa, krippendorff_alpha
from .amplification import Amplification, amplification_slope
from .calibration import Brier, Calibration, brier_score, calibration_error
from .clusters import cluster_mean, paired_difference
from .corrections import Corrected, correct_shares, likeliest_shares, rogan_gladen
from .crossed import crossed_bootstrap, two_way_difference, two_way_mean
from .curves import average_precision, precision_recall_curve, roc_curve
from .distances import Distance, cmmd, kid, mmd
from .divergence import (
    AgainstNull,
    against_null,
    jensen_shannon,
    kullback_leibler,
    mean_absolute_deviation,
    total_variation,
    total_variation_interval,
)
from .effect_size import cohens_h
from .equivalence import (
    Equivalence,
    equivalence,
    equivalence_of_mean,
    equivalence_of_pairs,
    equivalence_of_proportion,
    equivalence_of_proportions,
    verdict_by_interval,
)
from .frechet import frechet
from .gaps import newcombe, stratified_shares
from .intervals import clopper_pearson, wilson
from .missing import Bounds, manski_bounds
from .multiplicity import benjamini_hochberg
from .operating_point import OperatingPoint, threshold_at_fpr, tpr_at_fpr
from .paired import mcnemar, paired_proportions
from .paired_gap import paired_gap
from .power import (
    images_for_equivalence,
    images_needed,
    images_per_arm,
    pairs_needed,
    power_of_proportion,
)
from .prediction_powered import prediction_powered_difference, prediction_powered_mean
from .ranking import auc
from .rates import Rate, clustered_rate, rate
from .sequential import confidence_sequence, repeated_interval, repeated_tests, spending
from .shrinkage import Shrunk, shrink_cells

__all__ = [
    "AgainstNull",
    "Amplification",
    "Bounds",
    "Brier",
    "Calibration",
    "Corrected",
    "Distance",
    "Equivalence",
    "OperatingPoint",
    "Rate",
    "Shrunk",
    "against_null",
    "amplification_slope",
    "auc",
    "average_precision",
    "benjamini_hochberg",
    "brier_score",
    "calibration_error",
    "clopper_pearson",
    "cluster_mean",
    "clustered_rate",
    "cmmd",
    "cohen_kappa",
    "cohens_h",
    "confidence_sequence",
    "correct_shares",
    "crossed_bootstrap",
    "equivalence",
    "equivalence_of_mean",
    "equivalence_of_pairs",
    "equivalence_of_proportion",
    "equivalence_of_proportions",
    "frechet",
    "images_for_equivalence",
    "images_needed",
    "images_per_arm",
    "jensen_shannon",
    "kid",
    "krippendorff_alpha",
    "kullback_leibler",
    "likeliest_shares",
    "manski_bounds",
    "mcnemar",
    "mean_absolute_deviation",
    "mmd",
    "newcombe",
    "paired_difference",
    "paired_gap",
    "paired_proportions",
    "pairs_needed",
    "power_of_proportion",
    "precision_recall_curve",
    "prediction_powered_difference",
    "prediction_powered_mean",
    "rate",
    "repeated_interval",
    "repeated_tests",
    "roc_curve",
    "rogan_gladen",
    "shrink_cells",
    "spending",
    "stratified_shares",
    "threshold_at_fpr",
    "total_variation",
    "total_variation_interval",
    "tpr_at_fpr",
    "two_way_difference",
    "two_way_mean",
    "verdict_by_interval",
    "wilson",
]
