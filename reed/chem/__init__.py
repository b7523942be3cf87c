"""Molecules and protein chains as plain arrays, and their conversion to and from RDKit."""
