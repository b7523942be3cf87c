"""Sources that read or generate protein structures."""
