"""Parameters that no data moves (position tables, learned tokens, what was never called): the component each belongs to."""

from collections.abc import Iterator, Mapping

from torch import nn

from triptych.models.flow import Flow, record, shaken
from triptych.models.roles import Key, Unit
from triptych.models.tiny_batch import ModelBatch

HEAD: Key = ("head",)
UNUSED: Key = ("unused",)


def settle(
    model: nn.Module, batch: ModelBatch, flow: Flow, units: list[Unit], keys: Mapping[str, Key], tied: Mapping[str, str]
) -> dict[str, Key]:
    """The component of every module or parameter outside the units, by its dotted name.

    It is the component around it, if that is one alone; else the component that moves first when the parameter is changed;
    the head, if nothing but the output moves; else it is unused, or part of what is called next.

    Args:
        model: the model.
        batch: of `flow`.
        flow: of the model.
        units: that have a component.
        keys: of the units, by path.
        tied: every name of every parameter with its first name; a parameter that a unit uses under another name is settled.
    """
    used = {first for name, first in tied.items() if any(name.startswith(f"{path}.") for path in keys)}
    stacked = {unit.path for unit in units if unit.stack is not None}
    found: dict[str, Key] = {}
    for path, parameters in _outside(model, "", frozenset(keys)):
        if all(tied[name] in used for name in parameters):
            continue
        key = None if _whole_part(model, path, flow) else _around(path, keys, stacked)
        found[path] = key or _first_moved(model, batch, flow, units, keys, parameters) or _next(path, flow, units, keys)
    return found


def _outside(module: nn.Module, path: str, inside: frozenset[str]) -> Iterator[tuple[str, dict[str, nn.Parameter]]]:
    """The largest modules and the single parameters that no unit holds, each with its parameters by full name."""
    if path in inside:
        return
    if path and not any(name.startswith(f"{path}.") for name in inside):
        held = {f"{path}.{name}": p for name, p in module.named_parameters(remove_duplicate=False)}
        if held:
            yield path, held
        return
    for name, parameter in module.named_parameters(recurse=False):
        full = f"{path}.{name}".lstrip(".")
        yield full, {full: parameter}
    for name, child in module.named_children():
        yield from _outside(child, f"{path}.{name}".lstrip("."), inside)


def _whole_part(model: nn.Module, path: str, flow: Flow) -> bool:
    """Whether it is a module of several that was never called: a part of its own, of which the batch made no use."""
    module = dict(model.named_modules()).get(path)
    return module is not None and any(module.children()) and not flow.of(path)


def _around(path: str, keys: Mapping[str, Key], stacked: set[str]) -> Key | None:
    """The one component with blocks (or the one without) in the nearest enclosing module that holds any."""
    while "." in path:
        path = path.rpartition(".")[0]
        within = {unit: key for unit, key in keys.items() if unit.startswith(f"{path}.")}
        candidates = {key for unit, key in within.items() if unit in stacked} or set(within.values())
        if candidates:
            return candidates.pop() if len(candidates) == 1 else None
    return None


def _first_moved(
    model: nn.Module,
    batch: ModelBatch,
    flow: Flow,
    units: list[Unit],
    keys: Mapping[str, Key],
    parameters: Mapping[str, nn.Parameter],
) -> Key | None:
    """The component of the first unit that moves when the parameters are changed; one that is not in memory is left alone."""
    values = [p for p in parameters.values() if p.is_floating_point()]
    if not values or any(p.is_meta for p in values):
        return None
    with shaken(values):
        moved = {id(seen) for seen in flow.moves(record(model, batch.inputs))}
    for unit in units:
        if any(id(seen) in moved for call in unit.calls for seen in (*call.inputs, *call.outputs)):
            return keys[unit.path]
    return HEAD if moved else None


def _next(path: str, flow: Flow, units: list[Unit], keys: Mapping[str, Key]) -> Key:
    calls = flow.of(path)
    after = [unit for unit in units if calls and unit.start > calls[0].start]
    return keys[after[0].path] if after else (HEAD if calls else UNUSED)
