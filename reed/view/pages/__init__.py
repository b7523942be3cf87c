"""Self-contained HTML pages: what a cache holds, how a run went."""
