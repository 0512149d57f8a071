"""Metrics of generated samples; pure functions on features or points, computed in float64."""

from alphaflow.metrics.detectors.base import Detector, DigitsClassifier, Features, load_digits_detector
from alphaflow.metrics.detectors.catalogue import DETECTORS, load_detector
from alphaflow.metrics.detectors.fashion import FashionClassifier, load_fashion_detector
from alphaflow.metrics.detectors.moving_digits import load_moving_digits_detector
from alphaflow.metrics.detectors.shapes import load_shapes_detector
from alphaflow.metrics.distances import energy_distance, sliced_wasserstein
from alphaflow.metrics.estimates import (
    Estimate,
    FrechetEstimate,
    frechet_estimate,
    jackknife,
    mean_estimate,
    median_estimate,
)
from alphaflow.metrics.frechet import frechet_distance, frechet_from_features
from alphaflow.metrics.inception_score import Guesses, inception_score
from alphaflow.metrics.kernel import kernel_distance
from alphaflow.metrics.manifold import (
    DensityCoverage,
    Neighbours,
    PrecisionRecall,
    density_coverage,
    manifold_estimates,
    nearest_neighbours,
    precision_recall,
)
from alphaflow.metrics.statistics import Accumulator, Moments, Statistics, statistics_of

__all__ = [
    "DETECTORS",
    "Accumulator",
    "DensityCoverage",
    "Detector",
    "DigitsClassifier",
    "Estimate",
    "FashionClassifier",
    "Features",
    "FrechetEstimate",
    "Guesses",
    "Moments",
    "Neighbours",
    "PrecisionRecall",
    "Statistics",
    "density_coverage",
    "energy_distance",
    "frechet_distance",
    "frechet_estimate",
    "frechet_from_features",
    "inception_score",
    "jackknife",
    "kernel_distance",
    "load_detector",
    "load_digits_detector",
    "load_fashion_detector",
    "load_moving_digits_detector",
    "load_shapes_detector",
    "manifold_estimates",
    "mean_estimate",
    "median_estimate",
    "nearest_neighbours",
    "precision_recall",
    "sliced_wasserstein",
    "statistics_of",
]
