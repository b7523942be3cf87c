"""Encoders of molecules."""
