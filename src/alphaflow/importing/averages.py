"""The networks in a checkpoint, and which of them is the average, wherever the common libraries put it.

An average is known by a word in the name of the set (ema, EMA, net_ema, params_ema, averaged_model, ema_0.9999,
shadow, …), by what lies beside it (torch's AveragedModel counts in `n_averaged`; Lightning's callbacks keep the
network's own weights as `current_model_state`), or from the network's own names: a list is in the order of its
parameters (torch-ema, diffusers' EMAModel: `shadow_params`), or its names lack their dots (Latent Diffusion's
LitEma).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import UserError
from .layouts import POSITIONS
from .stored import StoredTensor

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Words that DDP, torch.compile, FSDP and recomputation put into names."""
TRAINING = ("opt", "optim", "optimizer", "optimizers", "opt_state", "optimizer_states", "optimizer_state_dict")
"""Words in the names of sets of tensors that are no network."""
AVERAGED = frozenset({"ema", "emas", "average", "averaged", "averaging", "avg", "swa", "shadow", "polyak"})
OWN = frozenset({"online", "raw", "collected", "backup", "current"})
"""Parts of averages' words that mean the network's own weights, kept beside the average."""
NEGATING = frozenset(
    {"non", "no", "not", "pre", "before", "without", "wo", "grad", "grads", "gradient", "gradients"}
)
"""Parts that make an average's word one of something else: `non_ema_model`, `pre_ema`, `ema_grad`."""
FIRSTS = ("x_embedder.proj.weight", "x_embedder.proj.kernel")
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_OWN_STATE = "current_model_state."


@dataclass(frozen=True)
class WeightSet:
    """A set of weights in a checkpoint."""

    where: str
    """The beginning of their names."""
    weights: Mapping[str, StoredTensor]
    """The weights by the rest of their names."""
    averaged: bool = False
    """Whether the set is an average."""
    home: str = ""
    """The place of its network's own weights, which share names and statistics; `where`, if it is these."""
    aside: Mapping[str, StoredTensor] | None = None
    """What lies among them and is no weight."""


def unwrapped(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same leaves without the words of `WRAPPERS` in their names."""
    return {_unwrapped(name): value for name, value in flat.items()}


def _unwrapped(name: str) -> str:
    return ".".join(word for word in name.split(".") if word not in WRAPPERS)


def choose_weights(flat: Mapping[str, Any], wanted: str | None = None, *, ordered: bool = True) -> WeightSet:
    """Return the weights to take of all that a checkpoint holds, `unwrapped`: the average where there is one.

    Args:
        flat: the leaves of the checkpoint by their dotted names.
        wanted: "ema" or "net" for either kind, or what the names of the wanted set begin or end with.
        ordered: whether `flat` is in the order of the network's parameters, as files of safetensors are not.

    Raises:
        UserError: there are no such weights, or several that may be meant; or there is an average that cannot be
            named.
    """
    sets = find_networks(flat, ordered=ordered)
    if not sets:
        some = ", ".join(name for name in list(flat)[:6] if name) or "no names in it"
        raise UserError(f"no diffusion transformer in it: no name ends in {FIRSTS[0]}; there are {some}, …")
    if wanted is not None and wanted not in ("ema", "net"):
        return _by_prefix(sets, wanted)
    averages, own = [each for each in sets if each.averaged], [each for each in sets if not each.averaged]
    if not averages and wanted != "net":
        if unnamed := _unnamed(flat, sets):
            raise UserError(
                f"it holds an average in {unnamed!r} whose order and names are unknown: --weights net takes the "
                "network's own weights",
                status=2,
            )
        if wanted == "ema":
            raise UserError("it holds no averaged weights: leave --weights ema away", status=2)
    if wanted == "net" and not own:
        raise UserError("it holds averaged weights only: leave --weights net away", status=2)
    return _only(own if wanted == "net" or not averages else averages, wanted)


def _only(sets: list[WeightSet], wanted: str | None) -> WeightSet:
    """Return the only set there is, or the one that `wanted` names."""
    plain = [each for each in sets if not _averaged_words(each.where)]  # no weights kept by an average
    for candidates in (sets, plain, [each for each in sets if each.where == f"{wanted}."]):
        if len(candidates) == 1:
            return candidates[0]
    raise UserError(f"it holds several networks ({_listed(sets)}): say which by --weights", status=2)


def _by_prefix(sets: list[WeightSet], wanted: str) -> WeightSet:
    """Return the set whose name is `wanted`, or begins or ends with it."""
    words = _unwrapped(wanted.replace("/", ".").strip("."))
    for fits in (
        lambda where: where == words,
        lambda where: where.startswith(f"{words}."),
        lambda where: where.endswith(f".{words}"),
    ):
        matches = [each for each in sets if words and fits(each.where.rstrip("."))]
        if len(matches) == 1:
            return matches[0]
    if not any(each.where for each in sets):
        raise UserError(
            f"--weights {wanted!r} names none of its networks: it holds one, under no prefix: leave it away",
            status=2,
        )
    raise UserError(f"--weights {wanted!r} names none of its networks ({_listed(sets)}), or several", status=2)


def _listed(sets: list[WeightSet]) -> str:
    return ", ".join(repr(each.where.rstrip(".")) if each.where else "one under no prefix" for each in sets)


def find_networks(flat: Mapping[str, Any], *, ordered: bool = True) -> list[WeightSet]:
    """Return all sets of weights that hold a transformer's first layer.

    Averages that only the network's own weights can name are among them.
    """
    stored = (name for name, value in flat.items() if isinstance(value, StoredTensor))
    roots = dict.fromkeys(root for name in stored if (root := _root(name)) is not None)
    swapped = any(root.startswith(_OWN_STATE) for root in roots)
    sets = []
    for root in roots:
        averaged = _is_average(root) or f"{root}n_averaged" in flat
        if swapped and not averaged:
            averaged = root.startswith("state_dict.")
        sets.append(WeightSet(root, _below(flat, root), averaged, root))
    own = [each for each in sets if not each.averaged and not _averaged_words(each.where)]
    if len(own) == 1 and not any(each.averaged for each in sets):
        sets += [*_flattened(flat, own[0]), *(_lists(flat, own[0]) if ordered else [])]
    return sets


def _root(name: str) -> str | None:
    """Return what the name of a first layer begins with; `None` for any other name, and for an optimizer's."""
    first = next((word for word in FIRSTS if name == word or name.endswith("." + word)), None)
    if first is None:
        return None
    root = name.removesuffix(first)
    return None if set(root.split(".")) & set(TRAINING) else root


def _below(flat: Mapping[str, Any], root: str) -> dict[str, StoredTensor]:
    return {
        name.removeprefix(root): value
        for name, value in flat.items()
        if name.startswith(root) and isinstance(value, StoredTensor)
    }


def _is_average(where: str) -> bool:
    """Return whether a set is an average, by the last word of its name that says so or denies it."""
    for word in reversed(where.split(".")):
        parts = _parts(word)
        if parts & OWN and not parts & AVERAGED:
            return False
        if parts & AVERAGED:
            return not parts & NEGATING
    return False


def _averaged_words(where: str) -> bool:
    parts = map(_parts, where.split("."))
    return any(some & AVERAGED and not some & NEGATING for some in parts)


def _parts(word: str) -> set[str]:
    """Return the parts of a word: `model_ema`, `modelEMA` and `ema9999` alike have the part ema."""
    return {part.lower() for part in _PARTS.findall(word)}


def _flattened(flat: Mapping[str, Any], own: WeightSet) -> Iterator[WeightSet]:
    """Yield averages under the network's names without their dots."""
    first = next(name for name in own.weights if name in FIRSTS).replace(".", "")
    for name in flat:
        if not name.endswith(first):
            continue
        head = name.removesuffix(first)
        named = {one: flat.get(head + one.replace(".", "")) for one in own.weights}
        held = {one: value for one, value in named.items() if isinstance(value, StoredTensor)}
        if POSITIONS in own.weights:  # positions are fixed, and so not averaged
            held.setdefault(POSITIONS, own.weights[POSITIONS])
        yield WeightSet(head, held, True, own.where)


def _lists(flat: Mapping[str, Any], own: WeightSet) -> Iterator[WeightSet]:
    """Yield averages that are lists in the order of the network's parameters."""
    groups: dict[str, list[tuple[int, StoredTensor]]] = {}
    for name, value in flat.items():
        above, _, number = name.rpartition(".")
        if number.isdigit() and isinstance(value, StoredTensor) and _is_average(above):
            groups.setdefault(above, []).append((int(number), value))
    for above, numbered in groups.items():
        values = [value for _, value in sorted(numbered, key=lambda one: one[0])]
        if (names := _names_of(values, flat, own)) is not None:
            weights = {name.removeprefix(own.where): value for name, value in names.items()}
            weights = {name: weights.get(name, value) for name, value in own.weights.items()}
            yield WeightSet(f"{above}.", weights, True, own.where)


def _names_of(
    values: list[StoredTensor], flat: Mapping[str, Any], own: WeightSet
) -> dict[str, StoredTensor] | None:
    """Return the values by the whole names of the parameters, of the network or of a module around it.

    `None`: their shapes fit neither.
    """
    words = own.where.rstrip(".").split(".") if own.where else []
    for length in range(len(words), -1, -1):
        above = "".join(f"{word}." for word in words[:length])
        names = [
            name
            for name, value in flat.items()
            if name.startswith(above) and isinstance(value, StoredTensor) and value.dtype.is_floating_point
        ]
        for some in (names, [name for name in names if name.rpartition(".")[2] != POSITIONS]):
            if [flat[name].shape for name in some] == [value.shape for value in values]:
                return dict(zip(some, values))
    return None


def _unnamed(flat: Mapping[str, Any], sets: list[WeightSet]) -> str:
    """Return where there are enough unnamed tensors to be an average; "" if there are nowhere."""
    counts: dict[str, int] = {}
    for name, value in flat.items():
        words = name.split(".")
        if not isinstance(value, StoredTensor) or len(value.shape) < 1 or not _is_average(".".join(words[:-1])):
            continue
        last = max(k for k, word in enumerate(words[:-1]) if _parts(word) & AVERAGED)
        where = ".".join(words[: last + 1])
        counts[where] = counts.get(where, 0) + 1
    inside = [place.where for place in sets]
    large = [where for where, count in counts.items() if count > 3]
    return next((place for place in large if not any(root.startswith(f"{place}.") for root in inside)), "")


def only_weights(chosen: WeightSet) -> WeightSet:
    """Return the set without counters beside the weights, and without tensors of types that no weight has."""
    aside = {
        name: value
        for name, value in chosen.weights.items()
        if not value.dtype.is_floating_point or (value.shape == () and "." not in name)
    }
    kept = {name: value for name, value in chosen.weights.items() if name not in aside}
    return replace(chosen, weights=kept, aside=aside)
