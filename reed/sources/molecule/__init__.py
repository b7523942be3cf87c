"""Readers of molecule data sets."""
