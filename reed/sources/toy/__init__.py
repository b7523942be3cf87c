"""Data sets that are generated or ship with a library."""
