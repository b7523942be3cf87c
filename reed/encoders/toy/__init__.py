"""Encoders of generated data sets and of the 8x8 digits, whose weights ship with reed."""
