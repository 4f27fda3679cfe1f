"""The repeated stacks of a model: lists of modules through which one stream of features runs, block after block."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from triptych.models.flow import Call, Flow, Seen, batch_input, changed, run, tensors
from triptych.models.tiny_batch import ModelBatch


@dataclass(frozen=True)
class Stack:
    """A stack's blocks in the order of execution, by dotted name.

    Args:
        blocks: dotted names.
        start: tick at which the first block begins.
        end: tick at which the last block ends.
        reach: the inputs of the model that move it.
        meets: whether one call of a block depends on several senses.
        crosses: whether every block reads, beside its stream, the same features from elsewhere: cross-attention.
    """

    blocks: tuple[str, ...]
    start: int
    end: int
    reach: frozenset[str]
    meets: bool
    crosses: bool


def find_stacks(model: nn.Module, flow: Flow) -> list[Stack]:
    """All stacks, outermost first where they nest, in the order in which they begin."""
    found = [_stack(flow, blocks) for blocks in _search(model, "", flow)]
    return sorted(found, key=lambda stack: stack.start)


def _search(module: nn.Module, path: str, flow: Flow) -> Iterator[list[str]]:
    runs = list(_runs(module, path, flow))
    yield from runs
    inside = {name for run in runs for name in run}
    for name, child in module.named_children():
        below = f"{path}.{name}".lstrip(".")
        if below not in inside and flow.of(below):
            yield from _search(child, below, flow)


def _runs(module: nn.Module, path: str, flow: Flow) -> Iterator[list[str]]:
    """The stacks among the direct children of a module."""
    children = {f"{path}.{name}".lstrip("."): child for name, child in module.named_children()}
    composite = [name for name, child in children.items() if any(child.children())]
    called = {name: flow.of(name) for name in composite}
    members = sorted(
        (name for name in composite if called[name] and called[name][0].module == name),
        key=lambda name: called[name][0].start,
    )
    if isinstance(module, nn.ModuleList):
        if members and len(members) == sum(bool(calls) for calls in called.values()) and _chained(members, flow):
            yield members
        return
    if not isinstance(module, nn.Sequential):  # attributes that happen to follow one another: only if they could repeat
        members = [m for m in members if stream(called[m][0]) and not any(_search(children[m], m, flow))]
    run: list[str] = []
    for name in members:
        kin = run and _kinds(children[run[-1]]) == _kinds(children[name])
        if run and not (kin and feeds(flow.of(run[-1])[0], flow.of(name)[0])):
            if len(run) > 1:
                yield run
            run = []
        run.append(name)
    if len(run) > 1:
        yield run


def _chained(members: list[str], flow: Flow) -> bool:
    """Whether each member goes on from the one before it, rather than reading the same features or another tower's."""
    calls = [flow.of(name)[0] for name in members]
    if len(calls) == 1:
        return stream(calls[0]) is not None
    return all(feeds(a, b) or (_like(a, b) and a.reach <= b.reach) for a, b in pairwise(calls))


def feeds(before: Call, after: Call) -> bool:
    """Whether an output of one call enters the other as it is."""
    return any(out.floating and out.same(seen) for out in before.outputs for seen in after.inputs)


def _like(before: Call, after: Call) -> bool:
    """Whether one call could go on from the other: the shapes fit, and both do not read the same features."""
    if not (before.outputs and before.inputs and after.inputs):
        return False
    fits = before.outputs[0].shape == after.inputs[0].shape == before.inputs[0].shape
    return fits and not after.inputs[0].same(before.inputs[0])


def stream(call: Call) -> Seen | None:
    """The features that a block changes and passes on: the first input of the shape of its first output."""
    outputs = [seen for seen in call.outputs if seen.floating]
    return next((seen for seen in call.inputs if outputs and seen.shape == outputs[0].shape), None)


def generates(model: nn.Module, batch: ModelBatch, flow: Flow, stack: Stack) -> bool:
    """Whether a stack writes text: it is causal, or several senses meet in it and scores of a vocabulary come out of the model.

    Causal: with the last id of a sequence changed, the last block returns the same as before at the first position.
    """
    ids = [
        n
        for n, s in ((name, batch_input(batch, name)) for name in stack.reach)
        if not s.is_floating_point() and s.ndim > 1
    ]
    if not ids:
        return False
    if stack.meets:
        tables = {
            size for name, p in model.named_parameters() if p.ndim == 2 for size in p.shape[:1] if _is_table(flow, name)
        }
        if any(
            seen.floating and seen.shape[-1:] and seen.shape[-1] in tables for c in flow.of("") for seen in c.outputs
        ):
            return True
    block = model.get_submodule(stack.blocks[-1])
    before = _output(model, block, dict(batch.inputs))
    after = _output(model, block, changed(model, batch, ids[0], last=True))
    if before is None or after is None or before.shape != after.shape or before.ndim < 3:
        return False
    moved = (before != after).flatten(2).any(dim=2)
    return bool(moved.any()) and not bool(moved[:, 0].any())


def _is_table(flow: Flow, name: str) -> bool:
    """Whether a parameter's module turns moving ids into features."""
    calls = flow.of(name.rpartition(".")[0])
    return any(seen.moved and not seen.floating for call in calls for seen in call.inputs)


def _output(model: nn.Module, block: nn.Module, inputs: dict[str, Any]) -> Tensor | None:
    """What a block returned in one pass, in its last call."""
    kept: list[Tensor] = []
    hook = block.register_forward_hook(lambda _m, _a, output: kept.extend(list(tensors(output))[:1]))
    try:
        run(model, inputs)
    finally:
        hook.remove()
    return kept[-1].clone() if kept else None


def _stack(flow: Flow, blocks: list[str]) -> Stack:
    calls = [call for block in blocks for call in flow.of(block)]
    first = [flow.of(block)[0] for block in blocks]  # a tower may run again for every picture
    return Stack(
        tuple(blocks),
        min(call.start for call in first),
        max(call.end for call in first),
        frozenset().union(*(call.reach for call in calls)),
        any(len(flow.senses(call.reach)) > 1 for call in calls),
        _crosses(first),
    )


def _crosses(calls: list[Call]) -> bool:
    """A tensor that depends on the data enters every block unchanged and is not the stream itself."""
    begin = stream(calls[0])
    for seen in calls[0].inputs:
        if not seen.floating or not seen.moved or seen is begin or (begin is not None and seen.same(begin)):
            continue
        if all(any(seen.same(other) and other is not stream(call) for other in call.inputs) for call in calls):
            return True
    return False


def _kinds(module: nn.Module) -> frozenset[type]:
    """The kinds of layers within that hold weights: blocks of one stack are made of the same."""
    leaves = (m for m in module.modules() if not any(m.children()))
    return frozenset(type(leaf) for leaf in leaves if any(True for _ in leaf.parameters()))
