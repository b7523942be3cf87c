"""Caches in object stores: a local mirror of their small files, and their shards by need.

The rest of the package works on folders. A cache in a store has one, its mirror, in which the small
files are; what needs a shard asks this package for it, by the path that it would have there.
"""
