"""Draws samples from trained weights and writes them as files."""
