"""Command lines of the package; they use click and hold no logic."""
