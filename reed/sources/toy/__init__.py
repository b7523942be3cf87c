"""Sources whose data is generated or ships with a library."""
