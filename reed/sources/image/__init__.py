"""Sources that read image data sets."""
