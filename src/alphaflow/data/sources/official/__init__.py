"""Sets of encoded images whose labels and splits stand in lists of their own form, as they are published."""
