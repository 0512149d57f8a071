"""Metrics of generated samples; pure functions on features or points, computed in float64."""

from alphaflow.metrics.catalogue import DETECTORS, load_detector
from alphaflow.metrics.detectors import Detector, DigitsClassifier, Features, load_digits_detector
from alphaflow.metrics.distances import energy_distance, sliced_wasserstein
from alphaflow.metrics.frechet import GaussianStatistics, frechet_distance, frechet_from_features
from alphaflow.metrics.manifold import (
    DensityCoverage,
    Neighbours,
    PrecisionRecall,
    density_coverage,
    nearest_neighbours,
    precision_recall,
)
from alphaflow.metrics.moving import load_moving_digits_detector

__all__ = [
    "DETECTORS",
    "DensityCoverage",
    "Detector",
    "DigitsClassifier",
    "Features",
    "GaussianStatistics",
    "Neighbours",
    "PrecisionRecall",
    "density_coverage",
    "energy_distance",
    "frechet_distance",
    "frechet_from_features",
    "load_detector",
    "load_digits_detector",
    "load_moving_digits_detector",
    "nearest_neighbours",
    "precision_recall",
    "sliced_wasserstein",
]
