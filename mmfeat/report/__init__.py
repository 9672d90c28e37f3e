"""Tables and summaries for a terminal."""
