"""The total derivative du/dt, in one pass with u where that is possible.

Read in this order: ways, fused, dual, rules, shapes, then total (which way, checked) and trial.
"""
