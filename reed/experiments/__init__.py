"""Demos and reproductions, run as ``make demo`` and ``make reproduce-imagenet``."""
