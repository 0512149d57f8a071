"""Processes that train, evaluate or encode together."""
