"""Encoders of protein chains and structures."""
