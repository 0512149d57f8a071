"""Networks whose features the metrics compare: what one is, the published ones by name, and their weights."""
