"""What people look at: listings, summaries, pictures and pages."""
