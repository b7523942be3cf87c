"""Captions, and encoders of captions."""
