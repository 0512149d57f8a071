#!/usr/bin/env bash
# diffusers' FlowMatchEulerDiscreteScheduler spends the last of a few steps on nothing: set_timesteps(n) spaces times
# evenly from 1 to 0.001, not to 0, and then adds 0. So two steps are 1 → 0.001 → 0, one jump paid for twice, and four are
# three. With shift=3 (Stable Diffusion 3's) the end is 0.0089 and not 0.003: the least time is shifted when the
# scheduler is made, and once more when times are set. Handing in sigmas=[1.0, 0.5] gives two even steps; FLUX's,
# Lumina 2's and Qwen-Image's pipelines do so by themselves, Stable Diffusion 3's and SANA's do not. Whoever compares
# a flow model in 2 or 4 steps with a flow map meets it (diffusers 0.42.1).
set -eu
here="$(mktemp -d)"
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q "torch==2.13.0" "diffusers==0.42.1" numpy
"$here/venv/bin/python" - <<'PY'
import diffusers
from diffusers import FlowMatchEulerDiscreteScheduler

print("diffusers", diffusers.__version__)


def times(steps: int, shift: float, **given: list[float]) -> list[float]:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps, **given)
    return [round(float(sigma), 4) for sigma in scheduler.sigmas]


for steps in (2, 4):
    print(steps, "steps:", times(steps, 1.0), "shifted by 3:", times(steps, 3.0))
even = times(2, 1.0, sigmas=[1.0, 0.5])
print("handed in:", even)
same = times(2, 1.0) == [1.0, 0.001, 0.0] and times(4, 1.0) == [1.0, 0.667, 0.334, 0.001, 0.0]
assert same and times(2, 3.0) == [1.0, 0.0089, 0.0] and even == [1.0, 0.5, 0.0], "the behaviour has changed"
PY
