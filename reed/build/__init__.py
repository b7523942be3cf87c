"""Stage one: encodes missing shards, alone, among processes, or on Ray."""
