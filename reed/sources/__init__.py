"""Sources, which read raw data sets, by name; one folder per kind of data."""

from reed.registry import Registry

SOURCES = Registry("source", "reed.sources")
