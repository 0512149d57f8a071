"""A flow network of diffusers as it is, under this package's signature: something to train into a flow map.

The network keeps its class, its names and its own `save_pretrained`. It is told a second time by one of
`ADAPTERS`, which at r = t leave its answer as it was, and the condition through a table of tokens or an encoder of
words.
"""

import copy
import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from alphaflow.condition import Condition
from alphaflow.errors import UserError, choose
from alphaflow.models.adapters import _silent_time
from alphaflow.models.flow_facts import FlowFacts, facts_of
from alphaflow.models.told_tokens import ClassTokens, WordTokens

ADAPTERS = ("zero", "gate", "split")
"""How the network is told r. zero: E(t) + Z(t - r) - Z(0), with Z a new embedding that begins at zero; so at r = t
the network alone answers, however long it trains. gate: (1 - g) E(t) + g E'(r), with E' a copy of E (AnyFlow's).
split: the later blocks see r in the place of t, through the same E (DMF's)."""
GATE = 0.25
"""g."""
SPLIT = 0.7
"""The share of the blocks that see t."""


class AdaptedFlow(nn.Module):
    """The network u(z, r, t, y) around a flow network of diffusers.

    y is a class int64 (B,), words int64 (B, L), or a dictionary of the tensors that the network itself takes
    (encoder_hidden_states, pooled_projections, a mask), whose null is given to `Guidance` in the same form.

    Args:
        net: the network. It is changed by hooks alone, and not copied.
        adapter: one of `ADAPTERS`.
        facts: of another class than the table's.
        shape: of a sample, (C, H, W) or (C, T, H, W); for the record.
        num_classes: classes of a trainable table; class `num_classes`, or y None, is no class.
        vocabulary, length: how many words there are, and of a prompt at most, for a trainable encoder.

    Raises:
        UserError: the network predicts no velocity, or no adapter of that name can be made.
    """

    def __init__(
        self,
        net: nn.Module,
        adapter: str = "zero",
        facts: FlowFacts | None = None,
        *,
        shape: Sequence[int] = (),
        num_classes: int = 0,
        vocabulary: int = 0,
        length: int = 0,
    ) -> None:
        super().__init__()
        choose("adapter", adapter, ADAPTERS, status=2)
        self.facts = facts or facts_of(type(net).__name__)
        self.network: dict[str, Any] = plain_config(net)
        self.facts.check(self.network)
        self.net, self.adapter, self.num_classes, self.length = net, adapter, num_classes, length
        self.shape = tuple(shape)
        self.config: dict[str, Any] = {
            "class_name": type(net).__name__,
            "network": self.network,
            "adapter": adapter,
            "shape": list(shape),
            "num_classes": num_classes,
            "vocabulary": vocabulary,
            "length": length,
        }
        if shape:
            self._check_shape(self.shape)
        sizes = self.network[self.facts.width], self.network[self.facts.pooled] if self.facts.pooled else 0
        self.condition: ClassTokens | WordTokens | None = None
        if vocabulary:
            self.condition = WordTokens(vocabulary, length, *sizes)
        elif num_classes:
            self.condition = ClassTokens(num_classes, *sizes)
        self.frozen: tuple[str, ...] = ()
        """Names of the network's weights that do not train, beside those of LoRA: no parameters, but buffers."""
        self.tables: tuple[str, ...] = ()
        """Names of the network's own buffers that its files hold, and no checkpoint while weights are frozen."""
        self._r: Tensor | None = None  # what the network is told of r, while it is called
        self._gap: Tensor | None = None
        self._later: dict[int, Tensor] = {}  # the embedding's outputs at r, by their places
        self._hook()

    # ------------------------------------------------------------------ the two times

    def _part(self, path: str) -> nn.Module:
        try:
            return self.net.get_submodule(path)
        except AttributeError:
            raise UserError(
                f"a {type(self.net).__name__} has no part {path!r}: its class has changed, or the facts are wrong"
            ) from None

    def _hook(self) -> None:
        """Tell the network r where its embedding of the time is made."""
        vector = self._part(self.facts.vector)
        if self.adapter == "zero":
            self.interval = _silent_time(vector.linear_2.out_features)  # type: ignore[union-attr,arg-type]
            vector.register_forward_hook(self._add_interval)
        elif self.adapter == "gate":
            self.later = copy.deepcopy(vector)
            vector.register_forward_hook(self._mix_later)
        else:
            blocks = [block for name in self.facts.blocks for block in self._part(name).children()]
            if len(blocks) < 2:
                raise UserError(
                    "the adapter split needs two blocks or more, and there is one: choose zero or gate"
                )
            self._part(self.facts.embedding).register_forward_hook(self._embed_later, with_kwargs=True)
            for block in blocks[min(math.ceil(SPLIT * len(blocks)), len(blocks) - 1) :]:
                block.register_forward_pre_hook(self._tell_later, with_kwargs=True)
            if self.facts.last:
                self._part(self.facts.last[0]).register_forward_pre_hook(self._tell_last)

    def _add_interval(self, module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        if self._gap is None:
            return out
        told = self.interval(self._gap) - self.interval(torch.zeros_like(self._gap))
        return out + told.to(out.dtype)

    def _sinusoids(self, like: Tensor) -> Tensor:
        assert self._r is not None
        return self._part(self.facts.project)(self._r).to(like.dtype)

    def _mix_later(self, module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        return out if self._r is None else (1 - GATE) * out + GATE * self.later(self._sinusoids(args[0]))

    def _embed_later(self, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], out: Any) -> None:
        if self._r is None or self._later:  # the latter: it is called from here
            return
        self._later = {-1: self._r}
        time = self._sinusoids(args[0]) if self.facts.embedding == self.facts.vector else self._r
        place = self.facts.place
        twin = module(*args[:place], time, *args[place + 1 :], **named)
        self._later = dict(enumerate(twin)) if isinstance(twin, tuple) else {0: twin}

    def _tell_later(
        self, block: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        place = self.facts.argument
        later = self._later.get(self.facts.part or 0)
        if later is None:
            return args, named
        if isinstance(place, str):
            return args, {**named, place: later.reshape(named[place].shape)}
        return (*args[:place], later.reshape(args[place].shape), *args[place + 1 :]), named

    def _tell_last(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        assert self.facts.last is not None
        later = self._later.get(self.facts.last[1] or 0)
        return args if later is None else (args[0], later, *args[2:])

    @contextmanager
    def _told(self, r: Tensor, t: Tensor) -> Iterator[Tensor]:
        """For a while, let hooks know r. Yields what the network is told of t."""
        facts = self.facts
        told = [facts.unit * (1 - one if facts.backwards else one) for one in (r, t)]
        self._r, self._gap = facts.inner * told[0] if facts.inner != 1 else told[0], t - r
        try:
            yield told[1]
        finally:
            self._r, self._gap, self._later = None, None, {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "AdaptedFlow":
        """Copy all but what is frozen, which copies share: an average of it would be the same."""
        for name in self.frozen:
            weight = self.net.get_buffer(name)
            memo[id(weight)] = weight
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    # ------------------------------------------------------------------ the call

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Condition | None = None) -> Tensor:
        """Return the average velocity over [r, t]: z and u (B, *shape), r and t (B,).

        Raises:
            ValueError: z does not fit the network, or y is nothing that it can be told.
        """
        self._check_shape(z.shape[1:])
        given = self._arguments(z, y)
        packed, layout = self.facts.pack(z, self.network)
        with self._told(r, t) as told:
            out = self.net(hidden_states=packed, timestep=told, return_dict=False, **layout, **given)[0]
        u = self.facts.unpack(out, z, self.network)
        return -u if self.facts.backwards else u

    def _arguments(self, z: Tensor, y: Condition | None) -> dict[str, Any]:
        """Return all that the network is told beside z and the time."""
        if isinstance(y, Mapping):
            tokens = y.get("encoder_hidden_states")
            if tokens is None:
                raise ValueError(f"y has {', '.join(sorted(y)) or 'nothing'}: give encoder_hidden_states as well")
            return {**self.facts.further(z, tokens.shape[1], self.network), **y}
        if self.condition is not None:
            tokens, pooled, there = self.condition(y, z)
        elif y is None:
            tokens = z.new_zeros(len(z), 1, self.network[self.facts.width])
            pooled = z.new_zeros(len(z), self.network[self.facts.pooled]) if self.facts.pooled else None
            there = torch.ones(len(z), 1, dtype=torch.bool, device=z.device)
        else:
            raise ValueError(
                "y is a tensor, and this network has no classes and reads no words: pass y=None, or a dictionary "
                "of the tensors that it takes"
            )
        given = {"encoder_hidden_states": tokens, **self.facts.further(z, tokens.shape[1], self.network)}
        if self.facts.pooled:
            given["pooled_projections"] = pooled
        if self.facts.mask:
            given[self.facts.mask] = there if self.facts.ragged else torch.ones_like(there)
        return given

    def _check_shape(self, shape: Sequence[int]) -> None:
        channels, patch = self.facts.channels(self.network)[0], self.facts.patch(self.network)
        sides = shape[-len(patch) :]
        if len(shape) != self.facts.dimensions - 1 or shape[0] != channels:
            what = "(C, T, H, W)" if self.facts.dimensions == 5 else "(C, H, W)"
            raise ValueError(
                f"samples of shape {tuple(shape)} do not fit this {type(self.net).__name__}, which takes {what} "
                f"with C = {channels}: give others, or another network"
            )
        if any(side % one for side, one in zip(sides, patch)):
            raise ValueError(f"samples of shape {tuple(shape)} cannot be cut into patches of {patch}: resize them")


def plain_config(net: nn.Module) -> dict[str, Any]:
    """Return the settings of a network of diffusers as JSON has them, without those of how it was loaded."""
    config = {key: value for key, value in dict(net.config).items() if not key.startswith("_")}  # type: ignore
    return {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}


def build_flow(class_name: str, network: Mapping[str, Any]) -> nn.Module:
    """Build a network of diffusers from its settings, with any weights, in evaluation mode.

    Raises:
        UserError: diffusers is not there, or has no such class, or makes none of these settings.
    """
    facts_of(class_name)
    try:
        kind = getattr(importlib.import_module("diffusers"), class_name)
    except ImportError:
        raise UserError("an adapted network needs diffusers: pip install 'alphaflow[latents]'") from None
    except AttributeError:
        raise UserError(f"this diffusers has no {class_name}: install 0.36 or newer") from None
    return kind.from_config({"_class_name": class_name, **network}).eval()


def build_adapted(
    class_name: str,
    network: Mapping[str, Any],
    adapter: str,
    shape: Sequence[int],
    num_classes: int = 0,
    vocabulary: int = 0,
    length: int = 0,
) -> AdaptedFlow:
    """Build what an `AdaptedFlow`'s `config` describes, with any weights.

    Raises:
        UserError: diffusers is not there, or the network predicts no velocity.
        ValueError: the shape does not fit the network.
    """
    net = build_flow(class_name, network)
    return AdaptedFlow(
        net, adapter, None, shape=shape, num_classes=num_classes, vocabulary=vocabulary, length=length
    )


def adapt(
    net: nn.Module,
    adapter: str = "zero",
    *,
    facts: FlowFacts | None = None,
    num_classes: int = 0,
    vocabulary: int = 0,
    length: int = 0,
) -> AdaptedFlow:
    """Return a diffusers flow network as u(z, r, t, y), which at r = t is what the network was.

    Args:
        net: one of the classes of `FACTS`, or another with its `facts`. It is not copied.
        adapter: how it is told r, one of `ADAPTERS`.
        num_classes, vocabulary, length: what it is to be told; see `AdaptedFlow`.

    Raises:
        UserError: the network predicts no velocity, or its class is not known and no facts are given.
    """
    return AdaptedFlow(net, adapter, facts, num_classes=num_classes, vocabulary=vocabulary, length=length)
