"""What moves with what: a model is run on one tiny batch, then with one input changed at a time, and every module is watched.

A tensor that differs between the two runs depends on the input that was changed. Masks, grids and lengths are never changed,
and placeholders in the text stay where they are, so that nothing moves through positions alone.
"""

import copy
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from triptych.models.cost import counted
from triptych.models.tiny_batch import ModelBatch

CELLS = (
    1024  # numbers kept of a tensor: enough to see one changed token in a million values, little beside the activations
)
MARGIN = 10.0  # times what two equal runs differ by (nothing, unless a kernel races) is a move


@dataclass
class Seen:
    """A tensor that entered or left a module: its shape, a digest of its values, and the inputs that move it."""

    shape: tuple[int, ...]
    floating: bool
    digest: Tensor
    moved: set[str] = field(default_factory=set)

    def same(self, other: "Seen") -> bool:
        """Whether both are the same values."""
        return self.shape == other.shape and bool(torch.equal(self.digest, other.digest))

    def distance(self, other: "Seen") -> float:
        """By how much the values moved between two runs, in units of their mean magnitude."""
        if self.shape != other.shape:
            return math.inf
        moved = float((self.digest - other.digest).abs().max()) if self.digest.numel() else 0.0
        return moved / max(float(self.digest.abs().mean()), 1e-30) if moved else 0.0


@dataclass
class Call:
    """One call of one module, from tick `start` to tick `end` of the run."""

    module: str
    start: int
    inputs: list[Seen]
    end: int = -1
    outputs: list[Seen] = field(default_factory=list)

    @property
    def reach(self) -> frozenset[str]:
        """The inputs of the model that move what the module reads and returns; none where all it returns stands still."""
        if not any(seen.moved for seen in self.outputs):
            return frozenset()
        return frozenset(name for seen in (*self.inputs, *self.outputs) for name in seen.moved)


@dataclass
class Flow:
    """All calls of one run in the order in which they began, each tensor with the inputs that move it.

    Args:
        calls: of every module.
        modality: of each input that was changed.
        noise: by how much any tensor differs between two equal runs, in units of its mean magnitude.
        macs: multiply-adds by the innermost module that was running.
    """

    calls: list[Call]
    modality: dict[str, str]
    noise: float
    macs: Counter[str]

    @cached_property
    def _own(self) -> dict[str, list[Call]]:
        calls: dict[str, list[Call]] = {}
        for call in self.calls:
            calls.setdefault(call.module, []).append(call)
        return calls

    def of(self, module: str) -> list[Call]:
        """The calls of a module; of one that is never called itself (a list), those of the modules within."""
        return self._own.get(module) or [c for c in self.calls if not module or c.module.startswith(f"{module}.")]

    def moves(self, other: list[Call]) -> Iterator[Seen]:
        """The tensors of this run that moved in another."""
        return (seen for seen, far in distances(self.calls, other) if far > MARGIN * self.noise)

    def senses(self, reach: frozenset[str] | set[str]) -> frozenset[str]:
        """The senses of inputs: a picture and a film are seen by one eye, unless these are just the names of two columns."""
        columns = all(name == kind for name, kind in self.modality.items())
        kinds = {name: kind if columns or kind != "video" else "image" for name, kind in self.modality.items()}
        return frozenset(kinds[name] for name in reach)

    def modalities(self, reach: frozenset[str] | set[str]) -> tuple[str, ...]:
        """The modalities of inputs, in the batch's order."""
        return tuple(dict.fromkeys(kind for name, kind in self.modality.items() if name in reach))


def trace(model: nn.Module, batch: ModelBatch) -> Flow:
    """Run the batch as it is, twice, then once for each input that carries a modality, with that input changed."""
    macs: Counter[str] = Counter()
    calls = record(model, batch.inputs, macs)
    flow = Flow(calls, dict(batch.modality), 0.0, macs)
    flow.noise = max((far for _, far in distances(calls, record(model, batch.inputs))), default=0.0)
    for name in batch.modality:
        for seen in flow.moves(record(model, changed(model, batch, name))):
            seen.moved.add(name)
    return flow


def record(model: nn.Module, inputs: Mapping[str, Any], macs: Counter[str] | None = None) -> list[Call]:
    """Every call of every module in one forward pass, with digests of what went in and came out.

    Args:
        model: that is run.
        inputs: keyword arguments.
        macs: to which the multiply-adds of each module are added.
    """
    calls: list[Call] = []
    opened: list[Call] = []
    ticks = count()
    hooks = []
    for path, module in model.named_modules():

        def enter(_module: nn.Module, args: Any, kwargs: Any, path: str = path) -> None:
            opened.append(Call(path, next(ticks), [_seen(t) for t in tensors((args, kwargs))]))
            calls.append(opened[-1])

        def leave(_module: nn.Module, _args: Any, output: Any) -> None:
            call = opened.pop()
            call.end, call.outputs = next(ticks), [_seen(t) for t in tensors(output)]

        hooks.append(module.register_forward_pre_hook(enter, with_kwargs=True, prepend=True))
        hooks.append(module.register_forward_hook(leave))
    counting = nullcontext() if macs is None else counted(macs, lambda: opened[-1].module if opened else "")
    try:
        with counting:
            run(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def run(model: nn.Module, inputs: Mapping[str, Any]) -> Any:
    """The model's output in evaluation mode; a model that draws random numbers draws the same ones every time."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return model(**copy.deepcopy(dict(inputs)))
    finally:
        model.train(training)


def distances(calls: list[Call], other: list[Call]) -> Iterator[tuple[Seen, float]]:
    """How far each tensor of one run is from the same in the other; the calls of a module are compared in turn."""
    turns: dict[str, list[Call]] = {}
    for call in reversed(other):
        turns.setdefault(call.module, []).append(call)
    for call in calls:
        twin = turns[call.module].pop() if turns.get(call.module) else Call(call.module, call.start, [])
        for mine, theirs in ((call.inputs, twin.inputs), (call.outputs, twin.outputs)):
            same = len(mine) == len(theirs)
            yield from ((seen, seen.distance(theirs[i]) if same else math.inf) for i, seen in enumerate(mine))


def changed(model: nn.Module, batch: ModelBatch, name: str, *, last: bool = False) -> dict[str, Any]:
    """The batch's inputs with one of them changed: other words in place of words, noise on pixels and sound.

    Args:
        model: whose config says which ids are special; they stay.
        batch: of the model.
        name: of the input; one inside a dictionary goes by its own key.
        last: change only the last position of a sequence of ids.
    """
    inputs = copy.deepcopy(dict(batch.inputs))
    holder, key = _find(inputs, name)
    value: Tensor = holder[key]
    draw = torch.Generator().manual_seed(1)
    if value.is_floating_point():
        spread = value.float().std(correction=0).item() or 1.0
        noise = (torch.randn(value.shape, generator=draw) * spread).to(value.device)
        whole = value == value.round()  # padding, or the places of patches, which a model looks up
        if not bool(whole.all()):
            noise[whole] = 0
        holder[key] = (value.float() + noise).to(value.dtype)
        return inputs
    free = torch.ones_like(value, dtype=torch.bool)
    if batch.tokens is not None and batch.tokens.shape == value.shape and batch.modality[name] in batch.names:
        free = batch.tokens.to(value.device) == batch.names.index(batch.modality[name])
    holder[key] = _other_ids(value, free, special_ids(model), draw, last=last)
    return inputs


def batch_input(batch: ModelBatch, name: str) -> Tensor:
    """The input of that name; one inside a dictionary goes by its own key."""
    holder, key = _find(batch.inputs, name)
    return holder[key]


def special_ids(model: nn.Module) -> set[int]:
    """Token ids to which the config gives a meaning (begin, end, padding, placeholders)."""

    def walk(node: Any, key: str = "") -> Iterator[int]:
        if isinstance(node, dict):
            for inner, value in node.items():
                yield from walk(value, str(inner))
        elif isinstance(node, (list, tuple)):
            for value in node:
                yield from walk(value, key)
        elif isinstance(node, int) and ("token_id" in key or "token_index" in key):
            yield node

    to_dict = getattr(getattr(model, "config", None), "to_dict", dict)
    return set(walk(to_dict()))


@contextmanager
def shaken(parameters: list[nn.Parameter]) -> Iterator[None]:
    """The parameters with noise on them, for as long as the context lasts."""
    kept = [parameter.detach().clone() for parameter in parameters]
    draw = torch.Generator().manual_seed(2)
    try:
        for parameter in parameters:
            spread = parameter.float().std(correction=0).item() or 1.0
            parameter.data += (torch.randn(parameter.shape, generator=draw) * spread).to(parameter)
        yield
    finally:
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.data.copy_(value)


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from tensors(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from tensors(inner)


def _seen(tensor: Tensor) -> Seen:
    """Long tensors are folded into `CELLS` sums weighted by a cosine, which no softmax keeps constant."""
    values = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    flat = values.detach().reshape(-1).to("cpu", torch.float32, copy=True)
    flat.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    if flat.numel() > CELLS:
        width = -(-flat.numel() // CELLS)
        flat = nn.functional.pad(flat, (0, CELLS * width - flat.numel()))
        flat = flat.view(CELLS, width) @ torch.arange(width).mul(0.7).cos()
    return Seen(tuple(tensor.shape), tensor.is_floating_point(), flat)


def _find(inputs: dict[str, Any], name: str) -> tuple[dict[str, Any], str]:
    """The dictionary that holds the input of that name, and its key in it."""
    if name in inputs and isinstance(inputs[name], Tensor):
        return inputs, name
    for value in inputs.values():
        if isinstance(value, dict) and name in value:
            return value, name
    raise KeyError(name)


def _other_ids(ids: Tensor, free: Tensor, special: set[int], draw: torch.Generator, *, last: bool) -> Tensor:
    """Another valid id at every free position: one below the largest present, neither special nor a placeholder."""
    taken = special | set(ids[~free].tolist())
    plain = free & torch.tensor([i not in special for i in ids.flatten().tolist()], device=ids.device).view(ids.shape)
    places = plain if plain.any() else free
    if last:
        order = torch.arange(ids.shape[-1], device=ids.device).expand(ids.shape)
        places = places & (order == order.where(places, -1).amax(dim=-1, keepdim=True))
    pool = [i for i in range(int(ids.max()) + 1) if i not in taken]
    if len(pool) < 2:
        pool = list(range(int(ids.max()) + 2))
    step = torch.randint(1, len(pool), (1,), generator=draw).item()
    other = {old: pool[(_rank(pool, old) + int(step)) % len(pool)] for old in set(ids[places].tolist())}
    new = torch.tensor([other.get(i, i) for i in ids.flatten().tolist()], device=ids.device, dtype=ids.dtype)
    return torch.where(places, new.view(ids.shape), ids)


def _rank(pool: list[int], value: int) -> int:
    """Where an id stands in the pool; one outside it stands at its end."""
    return pool.index(value) if value in pool else len(pool) - 1
