"""Measures of samples, and the feature spaces they are taken in."""

from reed.registry import Registry

FEATURES = Registry("feature space", "reed.metrics")
