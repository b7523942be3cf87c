"""Drawing samples from trained weights and writing them to files."""
