"""Videos, moving digits, and latents of clips."""
