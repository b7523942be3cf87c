"""Noise paths, samplers, masked diffusion, categorical flows and optimal transport."""
