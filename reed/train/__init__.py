"""Stage two: trains a net from the shards of a cache."""
