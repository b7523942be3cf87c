"""Pages of HTML that need nothing but themselves: what a cache holds, how a run went."""
