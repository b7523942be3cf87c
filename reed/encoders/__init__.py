"""Frozen encoders and generators, by name; one file per family."""

from reed.registry import Registry

ENCODERS = Registry("encoder", "reed.encoders")
