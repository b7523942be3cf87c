"""Encoders of generated data sets and of the 8x8 digits; their weights ship with reed."""
