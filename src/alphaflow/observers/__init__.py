"""What looks at a run while it trains, and leaves no trace in it."""
