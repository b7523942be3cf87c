"""Stage two: train a net from the shards of a cache."""
