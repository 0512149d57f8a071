"""A run's report, one HTML file."""
