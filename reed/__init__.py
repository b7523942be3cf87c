"""REED: representation-aligned diffusion and flow models, trained from a feature cache."""

__version__ = "0.1.0"
