"""A trained network that draws: samples, and files of them."""
