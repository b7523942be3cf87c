"""Readers of image data sets."""
