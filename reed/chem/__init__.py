"""Molecules and protein chains as plain arrays, and their exchange with RDKit."""
