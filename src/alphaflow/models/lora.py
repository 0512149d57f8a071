"""LoRA around an adapted flow network: only small matrices, the time's adapter and the condition's tables train.

What is frozen becomes buffers that no checkpoint holds: optimizer, averages and gradients see what trains alone.
PEFT (an extra) makes the layers; it is imported only here, when asked for.
"""

import re
from collections.abc import Iterator

from torch import Tensor, nn

from alphaflow.errors import UserError
from alphaflow.models.adapted import AdaptedFlow

ALPHA = 2
"""α over the rank: what the product of the two matrices is multiplied by."""
_MODULATION = re.compile(r"norm|_mod(\.|$)")
"""In the names of layers that are told the time: these are no part of attention or MLP."""


class _Buffers:
    """What a frozen embedding of the time answers for its parameters: Wan asks the first one for its type."""

    def __init__(self, module: nn.Module) -> None:
        self._module = [module]

    def __call__(self, recurse: bool = True) -> Iterator[Tensor]:
        return self._module[0].buffers(recurse)


def add_lora(flow: AdaptedFlow, rank: int) -> AdaptedFlow:
    """Put low-rank matrices beside the linear layers of attention and MLPs, and freeze all else of the network.

    The answers are those of before: the second matrix begins at zero. The network is changed in place.

    Args:
        flow: with its weights; those of the network are fixed from here on.
        rank: of the matrices.

    Raises:
        UserError: peft is not there, or the network has no such layers.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError("LoRA needs peft: pip install 'alphaflow[lora]'") from None
    names = list(_linears(flow))
    if not names:
        raise UserError(f"a {type(flow.net).__name__} has no linear layers in its blocks: leave --lora out")
    config = LoraConfig(r=rank, lora_alpha=ALPHA * rank, target_modules=names)
    inject_adapter_in_model(config, flow.net)
    frozen = [name for name, weight in flow.net.named_parameters() if not weight.requires_grad]
    for name in frozen:
        module, own = _place(flow, name)
        weight = module._parameters.pop(own)
        module.register_buffer(own, None if weight is None else weight.detach(), persistent=False)
    flow.frozen = tuple(frozen)
    flow.tables = tuple(name for name in flow.net.state_dict() if name in dict(flow.net.named_buffers()))
    for name in flow.tables:  # of positions: a network's own numbers
        module, own = _place(flow, name)
        module._non_persistent_buffers_set.add(own)
    vector = flow.net.get_submodule(flow.facts.vector)
    vector.parameters = _Buffers(vector)  # type: ignore[assignment]
    return flow


def merge_lora(flow: AdaptedFlow) -> AdaptedFlow:
    """Add the low-rank matrices into the weights that they stand beside: a plain network again, in place."""
    from peft.tuners.lora import LoraLayer

    layers = [(name, module) for name, module in flow.net.named_modules() if isinstance(module, LoraLayer)]
    for name, layer in layers:
        base = layer.get_base_layer()
        delta = layer.get_delta_weight("default")  # type: ignore[attr-defined]
        base.weight = base.weight + delta  # a buffer of its own
        flow.net.set_submodule(name, base)
    for name in (name.replace(".base_layer.", ".") for name in flow.frozen):
        module, own = _place(flow, name)
        weight = module._buffers.pop(own)
        module._non_persistent_buffers_set.discard(own)
        assert weight is not None
        module.register_parameter(own, nn.Parameter(weight, requires_grad=False))
    for name in flow.tables:
        module, own = _place(flow, name)
        module._non_persistent_buffers_set.discard(own)
    flow.frozen = flow.tables = ()
    del flow.net.get_submodule(flow.facts.vector).parameters
    return flow


def _linears(flow: AdaptedFlow) -> Iterator[str]:
    for block in flow.facts.blocks:
        for name, module in flow.net.get_submodule(block).named_modules():
            if isinstance(module, nn.Linear) and not _MODULATION.search(name):
                yield f"{block}.{name}"


def _place(flow: AdaptedFlow, name: str) -> tuple[nn.Module, str]:
    """Return the module that holds a weight of the network, and the weight's name there."""
    path, _, own = name.rpartition(".")
    return flow.net.get_submodule(path), own
