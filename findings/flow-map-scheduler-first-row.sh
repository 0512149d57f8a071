#!/usr/bin/env bash
# diffusers' FlowMapEulerDiscreteScheduler takes tensors of times, one a row ("any-step": both ends of an interval may be
# the caller's). Where the first row's time lies on the schedule, all rows are stepped as if they were at that time: the
# others' own are passed over without a word. Where it lies off the schedule, each row has its own. So a batch of rows
# at different times comes out wrong or right by whether its first row happens to be on the grid, and the order of rows
# changes the result of each (diffusers 0.42.1, torch 2.13.0, CPU).
set -eu
here="$(mktemp -d)"
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q "torch==2.13.0" "diffusers==0.42.1" numpy
"$here/venv/bin/python" - <<'PY'
import diffusers
import torch
from diffusers import FlowMapEulerDiscreteScheduler

print("diffusers", diffusers.__version__)
scheduler = FlowMapEulerDiscreteScheduler()
scheduler.set_timesteps(2)
print("schedule", scheduler.timesteps.tolist())
noise, velocity, end = torch.zeros(2, 1), torch.ones(2, 1), torch.tensor([0.0, 0.0])


def moved(times: list[float]) -> list[float]:
    """How far each row goes from its time to 0; right is the time itself, in thousandths."""
    step = scheduler.step(velocity, torch.tensor(times), noise, r_timestep=end, return_dict=False)[0]
    return [round(-float(one), 4) for one in step[:, 0]]


found = {str(times): moved(times) for times in ([1000.0, 250.0], [500.0, 250.0], [250.0, 1000.0], [300.0, 250.0])}
for times, way in found.items():
    print("rows at", times, "go", way)
assert found == {
    "[1000.0, 250.0]": [1.0, 1.0],  # the second should go 0.25
    "[500.0, 250.0]": [0.5, 0.5],
    "[250.0, 1000.0]": [0.25, 1.0],  # the same rows the other way round: right
    "[300.0, 250.0]": [0.3, 0.25],
}, found
PY
