"""Domains: one module for each kind of data."""
