"""Raw data sets, by name; one file per format."""

from reed.registry import Registry

SOURCES = Registry("source", "reed.sources")
