"""The components of any model: their role, the modalities that reach them, their blocks, parameters and bytes.

Nothing is decided by a name or a class: the model is run on a tiny batch, one input is changed at a time, and what moves with
what says which part is which (`flow`, `stacks`, `roles`). Parameters that no data moves (position tables, a learned token) belong
to the component they stand in, or else to the first one that moves when they are changed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from triptych.models.cost import seconds
from triptych.models.flow import Flow, run, trace
from triptych.models.fusion_model import FusionModel
from triptych.models.roles import Key, Role, Unit, find_units, key_of, place
from triptych.models.stacks import find_stacks, generates
from triptych.models.strays import HEAD, UNUSED, settle
from triptych.models.summary import example_inputs
from triptych.models.tiny_batch import ModelBatch, tiny_batch


@dataclass(frozen=True)
class Component:
    """A part of the model.

    Args:
        name: `<modality>.<role>`, or `<role>` where several modalities meet.
        role: what it does; "unused" where the batch never called it.
        modalities: that reach it.
        blocks: dotted names of its repeated stack, in the order of execution.
        prefixes: dotted names of the modules and parameters that make it up; no other component has any within.
        parameters: numbers it owns; a tied parameter counts where it is used first.
        bytes: of its parameters and persistent buffers as they are in memory.
        macs: multiply-adds of the batch.
        tied_to: the component that owns a parameter which this one uses too.
        latency: share of the time, where it was measured.
    """

    name: str
    role: Role
    modalities: tuple[str, ...]
    blocks: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    parameters: int = 0
    bytes: int = 0
    macs: int = 0
    tied_to: str | None = None
    latency: float | None = None

    def owns(self, tensor: str) -> bool:
        """Whether a parameter or buffer of that dotted name belongs here."""
        return any(not p or tensor == p or tensor.startswith(f"{p}.") for p in self.prefixes)


def components(model: nn.Module, batch: ModelBatch | None = None, *, latency: bool = False) -> list[Component]:
    """All components in the order in which data flows through them; together they own every parameter once.

    Args:
        model: any module. Parameters on the meta device that hooks fill during a run are left as they are.
        batch: that it accepts; made by `tiny_batch` if left out.
        latency: measure each component's share of the time.

    Raises:
        InputError: no batch was given and none can be made.
    """
    if batch is None:
        batch = fusion_batch(model) if isinstance(model, FusionModel) else tiny_batch(model)
    tied = _tied(model)  # first: a parameter that is streamed from disk is another object after every call
    flow = trace(model, batch)
    stacks = find_stacks(model, flow)
    units = find_units(model, flow, stacks)
    places = place(units, stacks, flow, lambda stack: generates(model, batch, flow, stack))
    units = [unit for unit in units if unit.path in places]
    keys = {unit.path: key_of(unit, places[unit.path], tied) for unit in units}
    keys |= settle(model, batch, flow, units, keys, tied)
    order = [keys[unit.path] for unit in units] + sorted(keys.values(), key=UNUSED.__eq__)
    times = seconds(model, partial(run, model, batch.inputs), [unit.path for unit in units]) if latency else {}
    return _assemble(model, flow, units, keys, list(dict.fromkeys(order)), tied, times)


def _assemble(
    model: nn.Module,
    flow: Flow,
    units: list[Unit],
    keys: Mapping[str, Key],
    order: list[Key],
    tied: Mapping[str, str],
    times: Mapping[str, float],
) -> list[Component]:
    """The components in that order, from the component of each unit and each stray parameter."""
    holders, users = _holders(model, keys, order, tied)
    prefixes: dict[Key, list[str]] = {key: [] for key in order}
    for path, key in _cover(model, holders):
        prefixes[key].append(path)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found: dict[Key, Component] = {}
    for key in order:
        mine = [unit for unit in units if keys[unit.path] == key]
        reach = frozenset[str]().union(*(unit.reach for unit in mine))
        if key == HEAD and not mine:
            reach = frozenset(name for call in flow.of("") for seen in call.outputs for name in seen.moved)
        own = [parameters[first] for first in dict.fromkeys(tied.values()) if holders[first] == key]
        buffers = [b for name, b in _buffers(model).items() if holders.get(name) == key]
        found[key] = Component(
            name=_name(key, flow, reach, {part.name for part in found.values()}),
            role=key[0],  # type: ignore[arg-type]
            modalities=flow.modalities(reach),
            blocks=tuple(unit.path for unit in mine if unit.stack is not None),
            prefixes=tuple(prefixes[key]),
            parameters=sum(p.numel() for p in own),
            bytes=sum(t.numel() * t.element_size() for t in (*own, *buffers)),
            macs=sum(n for path, n in flow.macs.items() if (_holder(path, keys) or order[-1]) == key),
            latency=sum(times[u.path] for u in mine) / sum(times.values()) if times else None,
        )
    lenders = {key: next((found[k].name for k in order if k in others), None) for key, others in users.items()}
    return [replace(part, tied_to=lenders.get(key)) for key, part in found.items()]


def _tied(model: nn.Module) -> dict[str, str]:
    """Every name of every parameter, with the first name of the same one."""
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(p), name) for name, p in model.named_parameters(remove_duplicate=False)}
    stated = getattr(model, "all_tied_weights_keys", None) or {}
    return names | {name: names[source] for name, source in stated.items() if name in names and source in names}


def _holder(name: str, keys: Mapping[str, Key]) -> Key | None:
    """The component of the innermost enclosing unit."""
    while name not in keys and name:
        name = name.rpartition(".")[0]
    return keys.get(name)


def _holders(
    model: nn.Module, keys: Mapping[str, Key], order: list[Key], tied: Mapping[str, str]
) -> tuple[dict[str, Key], dict[Key, set[Key]]]:
    """The component that holds each tensor, by its name, and the components whose parameters each component uses too."""
    holders: dict[str, Key] = {}
    users: dict[Key, set[Key]] = {}
    for first in dict.fromkeys(tied.values()):
        aliases = [name for name, other in tied.items() if other == first]
        claims = {key for alias in aliases if (key := _holder(alias, keys))}
        owner = min(claims, key=order.index)
        holders |= dict.fromkeys(aliases, owner)
        for key in claims - {owner}:
            users.setdefault(key, set()).add(owner)
    for name in _buffers(model):
        if key := _holder(name, keys):
            holders[name] = key
    return holders, users


def _buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """The buffers that are saved."""
    saved = model.state_dict(keep_vars=True).keys()
    return {name: buffer for name, buffer in model.named_buffers() if name in saved}


def _cover(model: nn.Module, holders: Mapping[str, Key]) -> Iterator[tuple[str, Key]]:
    """The largest modules, and the parameters besides, that lie in one component as a whole."""

    def walk(module: nn.Module, path: str) -> Iterator[tuple[str, Key]]:
        here = [name for name in holders if not path or name.startswith(f"{path}.")]
        inside = {holders[name] for name in here}
        if len(inside) == 1:
            yield path, inside.pop()
        elif inside:
            children = {f"{path}.{name}".lstrip("."): child for name, child in module.named_children()}
            yield from ((n, holders[n]) for n in here if not any(n.startswith(f"{child}.") for child in children))
            for below, child in children.items():
                yield from walk(child, below)

    return walk(model, "")


def _name(key: Key, flow: Flow, reach: frozenset[str], taken: set[str]) -> str:
    """`<modality>.<role>` of a part of one sense that leads to where the senses meet, else the role; numbered if taken."""
    senses, modalities = flow.senses(reach), flow.modalities(reach)
    plain = key[0]
    if plain in {"encoder", "connector", "embedding"} and len(senses) == 1:
        plain = f"{modalities[0] if len(modalities) == 1 else next(iter(senses))}.{plain}"
    return next(name for n in range(1, 1000) if (name := plain if n == 1 else f"{plain}_{n}") not in taken)


def tensor_bytes(component: Component, sizes: Mapping[str, int]) -> int:
    """Bytes of a component, from the bytes of each tensor by its dotted name."""
    return sum(size for name, size in sizes.items() if component.owns(name))


def fusion_batch(model: FusionModel) -> ModelBatch:
    """A batch for a model of our own; row i > 0 lacks modality i - 1, so that the learned tokens are seen to move something.

    Its modalities are the model's fields, for two columns may both hold pictures.
    """
    draw = torch.Generator().manual_seed(0)
    rows = len(model.fields) + 1
    inputs: dict[str, Any] = {}
    for name, value in example_inputs(model, rows).items():
        top = int(model.config.inputs[name]["features"].get("vocabulary") or 2)
        ids = torch.randint(1, max(top, 2), value.shape, generator=draw)
        inputs[name] = torch.randn(value.shape, generator=draw) if value.is_floating_point() else ids.clamp(max=top - 1)
    presence = torch.cat([torch.ones(1, rows - 1), 1 - torch.eye(rows - 1)]).bool()
    return ModelBatch({"inputs": inputs, "presence": presence}, {name: name for name in model.fields}, None, ())
