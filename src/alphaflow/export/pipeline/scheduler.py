"""A scheduler for networks that jump: one step, or a few."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor


@dataclass
class FlowMapSchedulerOutput(BaseOutput):
    """The output of a step."""

    prev_sample: Tensor
    """The sample at the end of the step, (B, *shape)."""


class FlowMapScheduler(SchedulerMixin, ConfigMixin):
    """Steps of a network u(z, r, t), the average velocity from time t (noise at 1) back to r (data at 0).

    Args:
        method: "ode": jumps along the flow map, z - (t - r) u. "consistency": jumps to the data and mixes fresh
            noise in again. "euler": steps along the instantaneous velocity u(z, t, t); needs many of them.
    """

    order = 1
    config_name = "scheduler_config.json"

    @register_to_config
    def __init__(self, method: str = "ode") -> None:
        if method not in ("ode", "consistency", "euler"):
            raise ValueError(f"unknown method {method!r}: choose ode, consistency or euler")
        self.init_noise_sigma = 1.0
        self.set_timesteps(1)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        timesteps: Sequence[float] | None = None,
    ) -> None:
        """Choose the steps: so many of equal length from 1 to 0, or those between falling times, as (1, 0.5, 0).

        Afterwards `timesteps` (N,) holds where each step begins and `ends` (N,) where it ends.
        """
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError("give either num_inference_steps or timesteps")
        if timesteps is None:
            assert num_inference_steps is not None
            if num_inference_steps < 1:
                raise ValueError(f"num_inference_steps {num_inference_steps} must be at least 1")
            timesteps = [1 - k / num_inference_steps for k in range(num_inference_steps)] + [0.0]
        falling = all(t > r for t, r in pairwise(timesteps))
        if len(timesteps) < 2 or not falling or timesteps[0] > 1 or timesteps[-1] < 0:
            raise ValueError(f"timesteps {tuple(timesteps)} must fall, within [0, 1], as in (1, 0.5, 0)")
        self.num_inference_steps = len(timesteps) - 1
        self.timesteps = torch.tensor(timesteps[:-1], dtype=torch.float32, device=device)
        self.ends = torch.tensor(timesteps[1:], dtype=torch.float32, device=device)

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor | None = None) -> Tensor:
        """Return the sample as it is: this network wants no scaling."""
        return sample

    def asks_for(self, timestep: float | Tensor) -> Tensor:
        """Return the r for which the network must give u at this `timestep`, ()."""
        if self.config.method == "consistency":
            return torch.zeros_like(self.ends[0])
        return self.timesteps[self._step_of(timestep)] if self.config.method == "euler" else self._end_of(timestep)

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> FlowMapSchedulerOutput | tuple[Tensor]:
        """Take the step from `timestep` to the next.

        Args:
            model_output: u for the r that `asks_for` gives, (B, *shape).
            timestep: the time at which the step begins.
            sample: z at `timestep`.
            generator: draws the fresh noise of "consistency".
        """
        t, r = self.timesteps[self._step_of(timestep)].to(sample), self._end_of(timestep).to(sample)
        if self.config.method == "consistency":
            result = sample - t * model_output
            if r > 0:
                noise = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=sample.dtype)
                result = (1 - r) * result + r * noise
        else:
            result = sample - (t - r) * model_output
        return FlowMapSchedulerOutput(prev_sample=result) if return_dict else (result,)

    def _end_of(self, timestep: float | Tensor) -> Tensor:
        return self.ends[self._step_of(timestep)]

    def _step_of(self, timestep: float | Tensor) -> int:
        return int((self.timesteps - timestep).abs().argmin())
