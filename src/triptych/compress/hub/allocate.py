"""From a budget of bytes to a plan: how many bits for each group of layers, so that the answers move least.

What an option does to a group of layers is the share of their outputs' energy that is lost when the compressor really rounds
some of their rows, for the original model's inputs. What such a share means for the answers is measured
once a component: noise of one share is put into all of its layers, and the divergence that follows is taken to grow in proportion,
as a small one does. The bytes are those that will be stored. The best choice within the budget is found exactly (`budget.solve`).

Errors of layers do not quite add, so the divergence that is predicted is a scale to choose by; the comparison of the two models
afterwards is what counts.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from triptych import console
from triptych.compress.budget import Option, solve
from triptych.compress.driver import WITHOUT_DATA, Group, Work, groups, rounding_of, second_moment, some_inputs
from triptych.compress.lockstep import Stop, lockstep
from triptych.compress.quantize.gptq import factorise
from triptych.compress.quantize.layers import LayerScheme
from triptych.errors import BudgetError
from triptych.evaluate.agreement import Answers, answers, compare
from triptych.models.stream import Stream
from triptych.models.tiny_batch import ModelBatch
from triptych.registry import find

LADDER = (
    "w2g64",
    "w2g32",
    "w3g64",
    "w4g64",
    "w5g64",
    "w6g64",
)  # below eight bits, which each role has its own word for
ROWS = 128  # of each weight that are rounded to learn what an option does to it
NOISE = 0.01  # share of the layers' output energy that a component is disturbed with
BATCHES = 8  # that the answers are compared on

Schemes = Mapping[str, LayerScheme]  # by the word of the plan


@dataclass(frozen=True)
class Allocation:
    """The words that were chosen, by weight, and what they were chosen by."""

    layers: Mapping[str, str]
    bytes: int
    divergence: float


@dataclass(frozen=True)
class Survey:
    """What is measured of one group of layers.

    Attributes:
        lost: share of the output energy by word.
        noise: standard deviation of a disturbance of the weights that costs the share `NOISE`.
    """

    lost: Mapping[str, float]
    noise: float


def allocate(
    stream: Stream,
    batches: Sequence[ModelBatch],
    work: Work,
    options: Mapping[str, Schemes],
    component: Mapping[str, str],
    count: Callable[[str, LayerScheme], int],
    budget: tuple[int, int, int],
) -> Allocation:
    """The best words within a budget.

    Args:
        stream: the original model; it is left as it was.
        batches: calibration samples.
        work: with any scheme for each weight that may be rounded.
        options: what may be done to each of them; layers that share their input are given one word.
        component: that each belongs to.
        count: bytes of a weight in a scheme; one whose weight grid is None stays as it is.
        budget: bytes at most, bytes of what no option is about, and bytes of the original.

    Raises:
        BudgetError: the cheapest options are too many bytes; says how many they are.
    """
    limit, fixed, whole = budget
    order = groups(work)
    surveys = _survey(stream, batches, work, order, options)
    slopes = _slopes(stream, batches[:: max(1, len(batches) // BATCHES)], order, surveys, component)
    table = {
        " ".join(group.names): [
            Option(
                word,
                {"bytes": sum(count(name, options[name][word]) for name in group.names)},
                slopes[component[group.names[0]]] * surveys[group].lost[word],
            )
            for word in surveys[group].lost
        ]
        for group in order
    }
    try:
        choice = solve(table, {"bytes": limit}, {"bytes": fixed}, original={"bytes": whole})
    except BudgetError as error:
        dense = f"{fixed:,} bytes of it are look-up tables, convolutions, norms and whatever else cannot be rounded."
        raise BudgetError(f"{error.what} {dense}", error.next) from error
    layers = {name: option.name for key, option in choice.options.items() for name in key.split(" ")}
    return Allocation(layers, int(choice.costs["bytes"]), choice.loss)


def _survey(
    stream: Stream, batches: Sequence[ModelBatch], work: Work, order: Sequence[Group], options: Mapping[str, Schemes]
) -> dict[Group, Survey]:
    """Round some rows of every group in every way, in one pass of the original model."""
    at = {group.names[0].removesuffix(".weight"): group for group in order}
    modules = {name: stream.streamed[f"{name}.weight"] for name in at}
    found: dict[Group, Survey] = {}
    stops = lockstep(stream.model, batches, modules, list(at))
    stop = next(stops, None)
    with console.progress("measure sensitivity", len(order), unit="group") as advance:
        while stop is not None:
            group = at[stop.name]
            if group not in found:
                found[group] = _measure(stream, batches, work, group, stop, options[group.names[0]])
                advance(1, note=group.block)
            with stream.pinned({n: stream.weights.read(n) for n in group.names if not stream.in_parts(n)}):
                stop = next(stops, None)
    # What met no input is as good at any width.
    return {g: found.get(g, Survey(dict.fromkeys(options[g.names[0]], 0.0), 0.0)) for g in order}


def _measure(
    stream: Stream, batches: Sequence[ModelBatch], work: Work, group: Group, stop: Stop, schemes: Schemes
) -> Survey:
    counts = [stream.model_shape(name)[0] for name in group.names]
    places = [torch.linspace(0, n - 1, min(n, ROWS)).round().long() for n in counts]
    rows = torch.cat([stream.weights.rows(name, where) for name, where in zip(group.names, places, strict=True)])
    inputs, factor = some_inputs(stop, work, batches), None
    energy = float((inputs @ rows.T).square().sum())
    lost = {}
    for word, scheme in schemes.items():
        if scheme.weight is None:
            lost[word] = 0.0
            continue
        blind = scheme.method in WITHOUT_DATA
        if not blind and factor is None:
            factor = factorise(second_moment(stop, group, work, batches)[0], rows.shape, overwrite=True)
        codes = find("quantizer", scheme.method if blind else "gptq")(rows, None if blind else factor, scheme.weight)
        error = float((inputs @ (codes.dequantize() - rows).T).square().sum())
        if scheme.per_token:
            error += float(((rounding_of(scheme)(inputs) - inputs) @ rows.T).square().sum())
        lost[word] = error / max(energy, 1e-30)
    noise = NOISE * energy / len(rows) / max(float(inputs.square().sum()), 1e-30)
    return Survey(lost, noise**0.5)


def _slopes(
    stream: Stream,
    batches: Sequence[ModelBatch],
    order: Sequence[Group],
    surveys: Mapping[Group, Survey],
    component: Mapping[str, str],
) -> dict[str, float]:
    """Divergence of the answers for each whole share of output energy that is lost in a layer of a component."""

    def ask() -> Answers:
        return answers(lambda inputs: stream.model(**inputs), batches, ["all"])

    members: dict[str, list[Group]] = {}
    for group in order:
        members.setdefault(component[group.names[0]], []).append(group)
    found = {}
    with console.stage("what each component means for the answers"):
        original = ask()
        for name, inside in members.items():
            with _disturbed(stream, {n: surveys[group].noise for group in inside for n in group.names}):
                found[name] = float(compare(original, ask()).divergence.mean()) / (NOISE * len(inside))
    return found


@contextmanager
def _disturbed(stream: Stream, noise: Mapping[str, float]) -> Iterator[None]:
    """White noise in some weights, the same whenever they are read."""

    def noisy(name: str) -> Callable[[slice], Tensor]:
        def rows(which: slice) -> Tensor:
            weight = stream.weights.rows(name, torch.arange(stream.model_shape(name)[0])[which])
            draw = torch.Generator().manual_seed(zlib.crc32(f"{name} {which.start}".encode()))
            return weight + noise[name] * torch.randn(weight.shape, generator=draw)

        return rows

    for name in noise:
        stream.replace(name, noisy(name))
    try:
        yield
    finally:
        for name in noise:
            stream.restore(name)
