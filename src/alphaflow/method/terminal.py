"""Terminal velocity matching (arXiv 2511.19797): the Lagrangian residual with all of its gradient.

    E = ‖ u - (t - r) ∂u/∂r - ū(z_r, r, r) ‖²,   z_r = z_t - (t - r) u

The first two terms are dz_r/dr, the velocity with which the end of a jump moves; ū is the velocity there, without
a gradient, at a z_r without one. `targets.py` has the same residual with a gradient through u alone.
"""

from contextlib import nullcontext

import torch
from torch import Tensor

from ..derivatives.graphed import graphed_slope
from ..derivatives.total import choose_method
from ..path import Network, Points, expand, move, predict
from ..rng import global_state, is_same, replayed, set_apart
from .targets import Rule, differentiated


def terminal_velocity(net: Network, points: Points, rule: Rule) -> tuple[Tensor, Tensor]:
    """Return dz_r/dr with its graph, u itself on the first `flow_rows`, and ū there, or v, both (B, *shape).

    One row always takes part in each of the evaluations, so that processes which evaluate a network together call
    it equally often. A network that draws random numbers (dropout) draws the same in all of a row with r < t.
    """
    start = min(points.flow_rows, len(points.z) - 1)
    method, device = rule.derivative, points.z.device
    if method == "auto":
        method = choose_method(*differentiated(net, points, "end"), start=start, graphed=True)
    near, far = points.rows(0, max(start, 1)), points.rows(start)
    before = global_state(device)
    u_near = predict(net, near.z, near.r, near.t, near.y)[:start]
    state, again = global_state(device), net
    if not is_same(before, state):
        again = replayed(net, state, device)
    u, slope = graphed_slope(lambda r: predict(again, far.z, r, far.t, far.y), far.r, method)
    speed = u - expand(far.t - far.r, far.z) * slope
    with torch.no_grad(), nullcontext() if again is net else set_apart(device):
        arrived = move(far.z, u.detach(), far.t, far.r)
        end = predict(again if rule.teacher is None else rule.teacher, arrived, far.r, far.r, far.y).to(far.v)
        end = torch.where(expand(far.r == far.t, far.z), far.v, end)
    return torch.cat([u_near, speed]), torch.cat([points.v[:start], end])
