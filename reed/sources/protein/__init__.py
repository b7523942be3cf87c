"""Readers of protein structures."""
