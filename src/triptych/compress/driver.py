"""The one driver: rounds the weights of a model that is on disk, group by group, in one forward pass of all samples.

At each stop of `lockstep` the inputs of a group of layers that read one tensor are known over the whole calibration
set. The group's weights are read, rounded by the method of their scheme against the second moments of those inputs,
journalled with their block, and the samples go on through what the codes stand for. Memory holds the samples'
activations, one group of weights and what belongs to the small parts of the model, never the model.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from triptych.compress import blockwise
from triptych.compress.journal import Finished, Journal
from triptych.compress.lockstep import Call, Stop, lockstep
from triptych.compress.migration import Migration, fold, migrate
from triptych.compress.quantize import float8
from triptych.compress.quantize.activation import per_token
from triptych.compress.quantize.gptq import Factor, factorise
from triptych.compress.quantize.grid import Codes, join
from triptych.compress.quantize.layers import LayerScheme, QuantizedWeight
from triptych.errors import InputError, NumericsError
from triptych.models.stream import Stream
from triptych.models.tiny_batch import ModelBatch
from triptych.registry import find

DRIFTING = {"gptaq", "descent"}  # methods that round towards the outputs of the uncompressed model
WITHOUT_DATA = {"rtn", "hqq", "float8"}  # methods that are given no second moments here
SAMPLED = 128  # rows of a weight, and twice as many inputs at most, on which its SQNR is measured
CORNER = 200  # columns of a second moment below which both of its triangles are computed
TOGETHER = 1 << 23  # numbers of weights that are rounded at a time: some matrices of that size are in memory then


@dataclass(frozen=True)
class Work:
    """What is to be done.

    Attributes:
        schemes: what becomes of each weight, by parameter name; all are of nn.Linear layers.
        calls: their layers in the order of a forward pass (`lockstep.trace`).
        block_of: the block that a parameter belongs to.
        drift: round against the inputs of the uncompressed model too (for `DRIFTING`); a second forward pass.
        modality_weights: share of each modality's tokens in the second moments; 1 where it is not named.
        seed: of what a method draws.
        migration: scales that move from weights to norms before rounding.
    """

    schemes: Mapping[str, LayerScheme]
    calls: Sequence[Call]
    block_of: Callable[[str], str]
    drift: bool = False
    modality_weights: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    migration: Migration | None = None


@dataclass(frozen=True)
class Group:
    """Weights whose layers read one tensor and lie in one block."""

    block: str
    names: tuple[str, ...]

    @property
    def layer(self) -> str:
        """The first layer."""
        return self.names[0].removesuffix(".weight")


def groups(work: Work) -> list[Group]:
    """The weights to round in the order of a forward pass, those that share their input together."""
    found: list[Group] = []
    for call in work.calls:
        name = f"{call.name}.weight"
        if name not in work.schemes:
            continue
        block = work.block_of(name)
        if (
            call.shares is not None
            and found
            and found[-1].block == block
            and f"{call.shares}.weight" in found[-1].names
        ):
            found[-1] = Group(block, (*found[-1].names, name))
        else:
            found.append(Group(block, (name,)))
    return found


def drive(
    stream: Stream,
    batches: Sequence[ModelBatch],
    work: Work,
    journal: Journal,
    watch: Callable[[Group, Stop], None] | None = None,
) -> Iterator[Finished]:
    """Round everything; yields each block when it is journalled (those that an earlier run finished too).

    Args:
        stream: the model; afterwards it runs with the rounded weights.
        batches: calibration samples.
        work: what is to be done.
        journal: what was done before, and where what is done now goes.
        watch: is told of every stop before it is dealt with.

    Raises:
        NumericsError: NaN or infinity in an input or a weight; names block, layer, modality and sample.
        InputError: a layer met no input, or the method cannot round it; names it.
    """
    order = groups(work)
    at = {group.names[0].removesuffix(".weight"): group for group in order}
    rank = {name: number for number, name in enumerate(at)}
    last = {group.block: group for group in order}
    modules = {name: stream.streamed[f"{name}.weight"] for name in at}
    learned = {work.block_of(name) for name, scheme in work.schemes.items() if scheme.method == blockwise.METHOD}
    blocks = {name: stream.model.get_submodule(name) for name in learned}
    stops = lockstep(stream.model, batches, modules, list(at), blocks)
    clean_stops = lockstep(stream.model, batches, modules, list(at)) if work.drift else iter(())
    unfinished, folded = dict[str, Finished](), dict[str, Tensor]()
    stop, clean = next(stops, None), next(clean_stops, None)
    while stop is not None:
        group = at[stop.name]
        if watch is not None:
            watch(group, stop)
        done = group.block in journal
        current = journal.read(group.block) if done else unfinished.setdefault(group.block, Finished(group.block, {}))
        _migrate_group(stream, group, stop, clean, work, batches, current)
        folded |= current.dense
        if not done and not current.notes.keys() >= set(group.names):
            if group.block in learned:
                _round_block(stream, group, stop, work, batches, current)
            _round_group(stream, group, stop, clean, work, batches, current)
        if group is last[group.block] and not done:
            journal.save(unfinished.pop(group.block))
        while clean is not None and rank[clean.name] <= rank[stop.name]:  # before this layer's inputs are rounded
            with stream.pinned({name: stream.weights.read(name) for name in at[clean.name].names}):
                clean = next(clean_stops, None)
        for name in group.names:
            _go_on_with(stream, name, current.quantized[name].scheme, journal, unfinished)
        if group is last[group.block]:
            yield current
        with stream.pinned({n: current.quantized[n].restored() for n in group.names if not stream.in_parts(n)}):
            stop = next(stops, None)
    fold(stream.model, folded)
    silent = [group.block for group in order if group.block not in journal]
    if silent:
        raise InputError(
            f"{silent[0]} met no input in {len(batches)} calibration samples ({len(silent)} such blocks).",
            "Calibrate with samples of every modality, or leave that component out.",
        )


def undo(stream: Stream, names: Iterable[str]) -> None:
    """Make a stream run with the original weights again, after a trial without migration."""
    for name in names:
        stream.restore(name)
        hooks = stream.streamed[name]._forward_pre_hooks
        for key in [key for key, hook in hooks.items() if isinstance(hook, RoundTokens)]:
            del hooks[key]


def _go_on_with(
    stream: Stream, name: str, scheme: LayerScheme, journal: Journal, unfinished: Mapping[str, Finished]
) -> None:
    """From here on the model runs with what the codes stand for: from memory until the block is journalled."""
    module = stream.streamed[name]
    if scheme.per_token and not any(isinstance(hook, RoundTokens) for hook in module._forward_pre_hooks.values()):
        module.register_forward_pre_hook(RoundTokens(rounding_of(scheme)))

    def restored(rows: slice) -> Tensor:
        held = (block.quantized[name] for block in unfinished.values() if name in block.quantized)
        item = next(held, None) or journal.weight(name)
        return item.codes.rows(rows).dequantize()

    stream.replace(name, restored)


def _migrate_group(
    stream: Stream,
    group: Group,
    stop: Stop,
    clean: Stop | None,
    work: Work,
    batches: Sequence[ModelBatch],
    into: Finished,
) -> None:
    """Move scales between a group's weights and the norm before it, where that is asked for and possible."""
    schemes = {name: work.schemes[name] for name in group.names}
    norm = None if work.migration is None else work.migration.norm_of(schemes)
    if norm is None:
        return
    stops = (stop,) if clean is None or clean.name != stop.name else (stop, clean)
    migrate(stream, norm, schemes, stops, lambda: second_moment(stop, group, work, batches)[0], into)


def _round_block(
    stream: Stream, group: Group, stop: Stop, work: Work, batches: Sequence[ModelBatch], into: Finished
) -> None:
    """Choose the codes of all weights of a block whose method learns them together, at the block's first stop."""
    here = {n: s for n, s in work.schemes.items() if s.method == blockwise.METHOD and work.block_of(n) == group.block}
    if into.quantized.keys() & here:
        return

    def moment(layer: str, inputs: Mapping[int, Tensor]) -> Tensor:
        return second_moment(Stop(layer, inputs), Group(group.block, (f"{layer}.weight",)), work, batches)[0]

    start = len(group.block) + 1
    grids = {n[start:].removesuffix(".weight"): s.weight for n, s in here.items() if s.weight is not None}
    codes = blockwise.round_block(stream, group.block, stop.around[group.block], grids, moment, batches, work.seed)
    for layer, part in codes.items():
        name = f"{group.block}.{layer}.weight"
        into.quantized[name] = QuantizedWeight(part, stream.model_shape(name), here[name])


class RoundTokens:
    """Forward pre-hook that rounds each token of a layer's input to eight bits."""

    def __init__(self, rounding: Callable[[Tensor], Tensor]) -> None:
        self.rounding = rounding

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:  # noqa: ARG002
        """The inputs with the first one rounded."""
        return (self.rounding(inputs[0]), *inputs[1:])


def rounding_of(scheme: LayerScheme) -> Callable[[Tensor], Tensor]:
    """What is done to the tokens of a layer whose inputs are rounded: integers, or FP8 where the weight is."""
    return float8.per_token if scheme.weight is not None and scheme.weight.number == "float" else per_token


def _round_group(
    stream: Stream,
    group: Group,
    stop: Stop,
    clean: Stop | None,
    work: Work,
    batches: Sequence[ModelBatch],
    into: Finished,
) -> None:
    """Choose the codes of every weight of a group, each scheme's rows in one go: they share moments and factors."""
    schemes = _left(group, work, into)
    methods = {scheme.method for scheme in schemes} - WITHOUT_DATA
    moment: Tensor | Factor | None = None
    drift, tokens = None if clean is None else _drift(stop, clean, work, batches), dict[str, int]()
    try:
        if methods:
            moment, tokens = second_moment(stop, group, work, batches)
        if methods == {"gptq"} and isinstance(moment, Tensor):  # factored once, for all rows
            moment = factorise(moment, stream.model_shape(group.names[0]), overwrite=True)
        for scheme, names in schemes.items():
            assert scheme.weight is not None
            given = None if scheme.method in WITHOUT_DATA else moment
            options: dict[str, Any] = {"drift": drift} if scheme.method in DRIFTING else {}
            parts: dict[str, list[Codes]] = {name: [] for name in names}
            for counts, rows in _some_rows(stream, names):
                codes = find("quantizer", scheme.method)(rows, given, scheme.weight, **options)
                for name, part in zip(counts, codes.split(list(counts.values())), strict=True):
                    parts[name].append(part)
            for name, found in parts.items():
                into.quantized[name] = QuantizedWeight(join(found), stream.model_shape(name), scheme)
    except (InputError, NumericsError) as error:
        raise type(error)(f"{group.names[0]}: {error.what}", error.next) from error
    del moment
    inputs = some_inputs(stop, work, batches)
    for name in group.names:
        codes = into.quantized[name].codes
        sqnr = round(_sqnr_db(stream, name, codes, inputs), 2)
        into.notes[name] = {"sqnr_db": sqnr, "tokens": tokens, "notes": list(codes.notes)}


def _left(group: Group, work: Work, into: Finished) -> dict[LayerScheme, list[str]]:
    """The weights of a group without codes, by scheme."""
    schemes: dict[LayerScheme, list[str]] = {}
    for name in group.names:
        scheme = work.schemes[name]
        if scheme.method == blockwise.METHOD:  # an expert that its block's learning did not meet, and now does
            scheme = scheme.model_copy(update={"method": "gptq"})
        if name not in into.quantized:
            schemes.setdefault(scheme, []).append(name)
    return schemes


def _some_rows(stream: Stream, names: Sequence[str]) -> Iterator[tuple[dict[str, int], Tensor]]:
    """The rows of weights that share their input, as many at a time as are worked on together; how many are of which."""
    shapes = {name: stream.model_shape(name) for name in names}
    if sum(map(math.prod, shapes.values())) <= TOGETHER:
        weights = [stream.weights.read(name) for name in names]
        yield {name: shape[0] for name, shape in shapes.items()}, torch.cat(weights) if len(weights) > 1 else weights[0]
        return
    for name, shape in shapes.items():
        for part in stream.weights.parts(name, max(1, TOGETHER // shape[1])):
            yield {name: len(part)}, part


def some_inputs(stop: Stop, work: Work, batches: Sequence[ModelBatch]) -> Float[Tensor, "tokens columns"]:
    """Some evenly spaced inputs of the calibration set."""
    found = [rows for number, x in stop.inputs.items() for _, rows in _by_modality(x, batches[number], work)]
    step = max(1, sum(map(len, found)) // SAMPLED)
    return torch.cat([rows[::step] for rows in found])


def _sqnr_db(stream: Stream, name: str, codes: Codes, inputs: Float[Tensor, "tokens columns"]) -> float:
    """Signal to rounding noise of the layer's output in dB, on some evenly spaced rows."""
    rows = torch.linspace(0, len(codes.values) - 1, min(SAMPLED, len(codes.values))).long()
    weight = stream.weights.rows(name, rows)
    signal, noise = ((inputs @ m.T).square().sum() for m in (weight, codes.rows(rows).dequantize() - weight))
    return -10 * math.log10(max(float(noise / signal), 1e-30)) if signal > 0 else 300.0


def second_moment(
    stop: Stop, group: Group, work: Work, batches: Sequence[ModelBatch]
) -> tuple[Float[Tensor, "columns columns"], dict[str, int]]:
    """E[x x'] of the group's inputs, each modality's tokens with its weight; and how many tokens of each there were."""
    total: Tensor | None = None
    weight_sum, tokens = 0.0, dict[str, int]()
    for number, x in stop.inputs.items():
        for modality, rows in _by_modality(x, batches[number], work):
            weight = work.modality_weights.get(modality, 1.0)
            total = rows.new_zeros(rows.shape[1], rows.shape[1]) if total is None else total
            _add_gram(total, rows, weight)
            weight_sum += weight * len(rows)
            tokens[modality] = tokens.get(modality, 0) + len(rows)
    assert total is not None
    if not bool(total.diagonal().isfinite().all()):
        _blame(stop, group, batches)
    return _mirrored(total).div_(max(weight_sum, 1e-30)), tokens


def _blame(stop: Stop, group: Group, batches: Sequence[ModelBatch]) -> None:
    """Say which sample brought the NaN or infinity, and in which modality."""
    before = 0
    for number, batch in enumerate(batches):
        bad = ~stop.inputs[number].isfinite().all(-1) if number in stop.inputs else torch.zeros(0)
        if bool(bad.any()):
            place = tuple(bad.nonzero()[0].tolist())
            row = place[0] if len(bad) == batch.rows else 0  # some models join the pictures of all rows
            modality = ", ".join(sorted(set(batch.modality.values()) - {"text"})) or "text"
            if batch.tokens is not None and batch.tokens.shape == bad.shape:
                modality = batch.names[int(batch.tokens[place])]
            raise NumericsError(
                f"The input of {group.layer} (block {group.block}) holds NaN or infinity: {modality} of calibration sample "
                f"{before + row}.",
                "Look at that sample, and at the layers before this one.",
            )
        before += batch.rows
    raise NumericsError(
        f"The inputs of {group.layer} (block {group.block}) are too large to be squared.",
        "Look at the layers before it.",
    )


def _by_modality(x: Tensor, batch: ModelBatch, work: Work) -> Iterator[tuple[str, Float[Tensor, "tokens columns"]]]:
    """The input's vectors without padding, apart by modality where the weights ask for it; "" stands for all."""
    mask, columns = batch.inputs.get("attention_mask"), x.shape[-1]
    at = x.shape[:-1]
    real = torch.ones(at, dtype=torch.bool)
    if isinstance(mask, Tensor) and mask.shape == at:
        real = mask.bool()
    if batch.tokens is None or batch.tokens.shape != at:
        yield "", x[real].reshape(-1, columns)
    elif not work.modality_weights:
        yield "", (x.reshape(-1, columns) if bool(real.all()) else x[real])
    else:
        for index, modality in enumerate(batch.names):
            rows = x[real & (batch.tokens == index)]
            if len(rows):
                yield modality, rows


def _add_gram(total: Float[Tensor, "columns columns"], rows: Float[Tensor, "tokens columns"], weight: float) -> None:
    """Adds X' X times a weight, to the upper triangle alone: the product is symmetric."""
    for left, right in _upper(0, len(total)):
        total[left, right].addmm_(rows[:, left].T, rows[:, right], alpha=weight)


def _mirrored(total: Float[Tensor, "columns columns"]) -> Float[Tensor, "columns columns"]:
    """The same with its lower triangle."""
    for left, right in _upper(0, len(total)):
        if left != right:
            total[right, left] = total[left, right].T
    return total


def _upper(first: int, stop: int) -> Iterator[tuple[slice, slice]]:
    """Rectangles that make up the upper triangle of a matrix, as few and large as halving it again and again gives."""
    if stop - first <= CORNER:
        yield slice(first, stop), slice(first, stop)
        return
    half = (first + stop) // 2
    yield from _upper(first, half)
    yield slice(first, half), slice(half, stop)
    yield from _upper(half, stop)


def _drift(
    stop: Stop, clean: Stop, work: Work, batches: Sequence[ModelBatch]
) -> Float[Tensor, "columns columns"] | None:
    """E[(x - x^) x^'] with x of the uncompressed model and x^ of this one; tokens and their weights as in `second_moment`.

    None where the two never meet: a router may send a sample's tokens elsewhere once the layers before it are rounded.
    """
    total: Tensor | None = None
    weight_sum = 0.0
    for number, hat in stop.inputs.items():
        x = clean.inputs.get(number) if clean.name == stop.name else None
        if x is None or x.shape != hat.shape:
            continue
        pairs = zip(_by_modality(x, batches[number], work), _by_modality(hat, batches[number], work), strict=True)
        for (modality, rows), (_, rounded) in pairs:
            weight = work.modality_weights.get(modality, 1.0)
            part = ((rows - rounded).T @ rounded).mul_(weight)
            total = part if total is None else total.add_(part)
            weight_sum += weight * len(rows)
    return None if total is None else total / max(weight_sum, 1e-30)
