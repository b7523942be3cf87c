"""Encoders of images: vision models, autoencoders, and arrays made elsewhere."""
