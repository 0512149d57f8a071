"""Other people's formats: what they hand us, and what we hand on."""
