"""The paper (α-Flow, arXiv 2510.20771), in the order to read it.

times, schedules, alpha   where r, t and α come from
guidance, weighting       ṽ with classes; the weight of a row
targets                   Definition 1: what u is regressed on
objective                 Algorithm 1: the loss
residuals                 what of it is logged, un-weighted
family                    twelve papers as settings of it; Theorem 1
sampling                  Algorithms 2 and 3
self_steering, compiled   an α that chooses itself; the loss under torch.compile
"""
