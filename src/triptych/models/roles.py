"""The role of every part of a model, from the order in which data flows through it. No name and no class decides.

The model is cut into units: blocks of stacks, look-ups, and the largest modules between them. A lane is the path of one sense
(picture, sound, words) until it meets another; where several have met, all units are one lane. In a lane, what leads into a
stack belongs to the stack; a module with matrices behind the last stack is a connector if the senses have yet to meet, the
head if nothing but the output follows; a norm stays with the stack before it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from triptych.models.flow import Call, Flow
from triptych.models.stacks import Stack, feeds

Key = tuple[
    str, ...
]  # of a component while it is being put together: its role and what tells it from others of that role
Role = Literal["encoder", "connector", "fusion", "decoder", "head", "embedding", "unused"]


@dataclass(frozen=True)
class Unit:
    """A module that belongs to one component as a whole."""

    path: str
    calls: tuple[Call, ...]
    reach: frozenset[str]
    senses: frozenset[str]
    meets: bool
    matrix: bool
    looks_up: bool
    stack: int | None = None

    @property
    def start(self) -> int:
        """The tick at which the unit is first called."""
        return self.calls[0].start

    @property
    def end(self) -> int:
        """The tick at which its first call ends."""
        return self.calls[0].end


def find_units(model: nn.Module, flow: Flow, stacks: list[Stack]) -> list[Unit]:
    """The units that data moves, in the order of their first calls; what nothing moves is in none."""
    blocks = {block: index for index, stack in enumerate(stacks) for block in stack.blocks}
    lookups = {path for path, module in model.named_modules() if _looks_up(module, flow.of(path) if path else [])}

    def descend(module: nn.Module, path: str) -> Iterator[Unit]:
        calls = flow.of(path)
        if not any(call.reach for call in calls) or not any(True for _ in module.parameters()):
            return
        if path in blocks:
            yield _unit(flow, path, module, looks_up=False, stack=blocks[path])
            return
        below = tuple(name for name in lookups if name == path or name.startswith(f"{path}."))
        pure = bool(below) and not any(
            _matrix(m, own=True) and f"{path}.{n}".strip(".") not in lookups and _moves(flow, f"{path}.{n}".strip("."))
            for n, m in module.named_modules()
        )
        nested = any(not path or block.startswith(f"{path}.") for block in blocks)
        children = [child for child in module.named_children() if any(True for _ in child[1].parameters())]
        own = not children or calls[0].module == path  # a list that is never called itself is no module of its own
        whole = path and own and not nested and (not below or pure) and not (children and _gathers(flow, calls))
        if whole:
            yield _unit(flow, path, module, looks_up=pure)
            return
        for name, child in children:
            yield from descend(child, f"{path}.{name}".lstrip("."))

    return sorted(descend(model, ""), key=lambda unit: unit.start)


@dataclass(frozen=True)
class Place:
    """What a unit is in the model: its role, and the inputs that reach the stack it belongs to (None if it has none)."""

    role: Role
    anchor: frozenset[str] | None = None


def place(units: list[Unit], stacks: list[Stack], flow: Flow, generates: Callable[[Stack], bool]) -> dict[str, Place]:
    """The place of each unit, by its path.

    Args:
        units: of `find_units`.
        stacks: of `find_stacks`.
        flow: of the model.
        generates: whether a stack writes text.
    """
    places = {unit.path: Place("embedding") for unit in units if unit.looks_up}
    met = [flow.senses(s.moved) for call in flow.calls for s in (*call.inputs, *call.outputs) if s.floating]
    lanes: dict[frozenset[str], list[Unit]] = {}
    for unit in units:
        if not unit.looks_up:
            lanes.setdefault(frozenset() if unit.meets else unit.senses, []).append(unit)
    for senses, lane in lanes.items():
        before = bool(senses) and any(len(m) > 1 and senses <= m for m in met)
        mine = [stacks[i] for i in dict.fromkeys(unit.stack for unit in lane) if i is not None]
        if before:
            given = [Place("connector") if s.crosses else Place("encoder", s.reach) for s in mine]
        else:
            given = _closing(mine, generates, several=not senses)
        tail: Role = "connector" if before else "head"
        if mine:
            places |= _walk(lane, dict(zip(mine, given, strict=True)), stacks, tail)
        else:
            heard = any(unit.looks_up and unit.senses == senses for unit in units)
            places |= {path: Place(role) for path, role in _without_stack(lane, tail, heard=heard).items()}
    return places


def _closing(stacks: list[Stack], generates: Callable[[Stack], bool], *, several: bool) -> list[Place]:
    """The stacks that lead to the output, in order: encoders or fusions, decoders, and what is behind a decoder.

    A stack that something new joins later only prepares. The last one decodes if it reads an earlier one by cross-attention, or writes.
    """
    given: list[Place] = []
    for index, stack in enumerate(stacks):
        later = stacks[index + 1 :]
        prepares = several and any(not other.reach <= stack.reach for other in later)
        writes = stack.crosses or (not any(other.crosses for other in later) and generates(stack))
        if any(earlier.role == "decoder" for earlier in given) and not stack.crosses:
            given.append(Place("head"))
        elif writes and not prepares:
            given.append(Place("decoder"))
        else:
            given.append(Place("fusion" if several else "encoder", stack.reach))
    return given


def _walk(lane: list[Unit], given: dict[Stack, Place], stacks: list[Stack], tail: Role) -> dict[str, Place]:
    """The places of a lane's units: those of its stacks, and of what stands before, between and behind them."""
    places: dict[str, Place] = {}
    passed = False  # a matrix behind the last stack
    for unit in lane:
        if unit.stack is not None:
            places[unit.path], passed = given[stacks[unit.stack]], False
            continue
        side = _leaves(unit, lane)
        inside = [p for s, p in given.items() if s.start < unit.start < s.end and not side]
        done = [p for s, p in given.items() if s.end < unit.start]
        ahead = [p for s, p in given.items() if s.start > unit.start and not side]
        if inside:
            places[unit.path] = inside[-1]
        elif ahead and (not done or done[-1] == ahead[0]):
            places[unit.path] = ahead[0]
        elif done and not unit.matrix and not passed:
            places[unit.path] = done[-1]
        else:
            writes = done and done[-1].role == "decoder"
            places[unit.path], passed = Place("connector" if ahead and not writes else tail), True
    return places


def _leaves(unit: Unit, lane: list[Unit]) -> bool:
    """Whether a unit between two blocks reads the stream and gives nothing back: the next block goes on as if it were not there."""
    before = [other for other in lane if other.stack is not None and other.end < unit.start]
    after = [other for other in lane if other.stack is not None and other.start > unit.end]
    if not before or not after or before[-1].stack != after[0].stack:
        return False
    last, following = before[-1].calls[0], after[0].calls[0]
    return feeds(last, unit.calls[0]) and feeds(last, following)


def _without_stack(lane: list[Unit], tail: Role, *, heard: bool) -> dict[str, Role]:
    """The roles where nothing repeats: the last module with matrices leads on, those before it encode or fuse.

    A norm without any such module is left out: it belongs to what it stands in. One module alone that brings raw features to the
    width of what follows is an embedding, unless their ids were looked up before (`heard`).
    """
    matrices = [index for index, unit in enumerate(lane) if unit.matrix]
    if not matrices:
        return {}
    if len(matrices) == 1 and tail == "connector" and not heard:
        return {unit.path: "embedding" for unit in lane}
    early: Role = "fusion" if lane[0].meets else "encoder"
    return {unit.path: early if index < matrices[-1] else tail for index, unit in enumerate(lane)}


def key_of(unit: Unit, place: Place, tied: Mapping[str, str]) -> Key:
    """What tells a unit's component from the others of its role: a table its embedding, a sense and the inputs an encoder.

    Args:
        unit: the unit.
        place: of the unit.
        tied: every name of every parameter, with the first name of the same one.
    """
    if place.role == "embedding" and unit.looks_up:
        return (place.role, next(first for name, first in tied.items() if name.startswith(f"{unit.path}.")))
    alone = place.role in {"encoder", "connector", "embedding"} and not unit.meets
    return (place.role, *(sorted(unit.senses) if alone else ()), *sorted(place.anchor or ()))


def _unit(flow: Flow, path: str, module: nn.Module, *, looks_up: bool, stack: int | None = None) -> Unit:
    calls = tuple(flow.of(path))
    reach: frozenset[str] = frozenset().union(*(call.reach for call in calls))
    meets = any(len(flow.senses(call.reach)) > 1 for call in calls)
    return Unit(path, calls, reach, flow.senses(reach), meets, _matrix(module), looks_up, stack)


def _gathers(flow: Flow, calls: list[Call]) -> bool:
    """Whether senses meet inside: several come out together, though no tensor that comes in carries several."""
    mixed = any(len(flow.senses(call.reach)) > 1 for call in calls)
    return mixed and not any(len(flow.senses(seen.moved)) > 1 for call in calls for seen in call.inputs)


def _looks_up(module: nn.Module, calls: list[Call]) -> bool:
    """A leaf with weights that turns ids, which move, into features."""
    if any(module.children()) or not _matrix(module):
        return False
    return any(
        any(seen.moved and not seen.floating for seen in call.inputs)
        and not any(seen.moved and seen.floating for seen in call.inputs)
        and any(seen.floating and seen.moved for seen in call.outputs)
        for call in calls
    )


def _moves(flow: Flow, path: str) -> bool:
    return any(call.reach for call in flow.of(path))


def _matrix(module: nn.Module, *, own: bool = False) -> bool:
    """Whether any parameter has two axes or more."""
    return any(parameter.ndim > 1 for parameter in module.parameters(recurse=not own))
