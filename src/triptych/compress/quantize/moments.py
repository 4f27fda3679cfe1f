"""What a model's weights meet during calibration: second moments, extremes and samples of every layer's input.

For a weight seen as a matrix W [rows, columns], H = E[x x'] over everything that W is multiplied with: tokens of a
linear layer, patches of a convolution (one H for each of its groups), inputs of a recurrent layer for weight_ih and its
hidden states for weight_hh. The change of the layer's output energy under a change D of the weight is then tr(D H D'),
whatever the samples were.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from triptych.compress.quantize.hidden import recurrent_inputs
from triptych.compress.quantize.layers import WeightView, kind_of, uses, weights
from triptych.errors import InputError, NumericsError

Batch = Mapping[str, Any] | tuple[Any, ...] | Callable[[nn.Module], Any]

Vectors = Callable[[Tensor], Iterable[Tensor]]

SAMPLES = 65_536  # values of an input that are kept for its activation range
DRAWN = 4_096  # of them, drawn from each call of the layer at first
UNFOLDED = 1 << 24  # numbers in the patches of a convolution that are held at once


@dataclass
class LayerStatistics:
    """Statistics of one weight's inputs.

    Attributes:
        name: the weight's parameter name.
        moment: H = E[x x'], [columns, columns], or [groups, columns, columns] for a grouped convolution; None for an
            embedding.
        mean: E[x], [columns] or [groups, columns]; None for an embedding.
        tokens: vectors x that were seen (positions, for a convolution or recurrent layer).
        low, high: extremes of the inputs.
        samples: some of the inputs' values, drawn evenly, for `activation.observe`.
        counts: how often each row of an embedding was read.
        passes: nn.Identity modules that were given the same tensor, as the shortcut of a residual block is.
    """

    name: str
    moment: Float[Tensor, "columns columns"] | Float[Tensor, "groups columns columns"] | None = None
    mean: Float[Tensor, " columns"] | Float[Tensor, "groups columns"] | None = None
    tokens: int = 0
    low: float = 0.0
    high: float = 0.0
    samples: Float[Tensor, " samples"] = field(default_factory=lambda: torch.empty(0))
    counts: Int[Tensor, " vocabulary"] | None = None
    passes: tuple[str, ...] = ()


@dataclass
class _Seen:
    """What one input tensor contributed; kept while that tensor lives, so that layers sharing it compute it once.

    Sharing the drawn values also gives layers that read one tensor one activation range, so it is rounded once.
    """

    tensor: "weakref.ref[Tensor]"
    version: int
    low: float
    high: float
    drawn: Tensor
    readers: list[LayerStatistics] = field(default_factory=list)
    # By geometry: sums of x x' and of x, and how many x.
    sums: dict[tuple[Any, ...], tuple[Tensor, Tensor, int]] = field(default_factory=dict)


class _Collector:
    """Accumulates sums over calls; `result` turns them into means."""

    def __init__(self, views: dict[str, WeightView], dtype: torch.dtype, positions: int | None, seed: int) -> None:
        self.views = views
        self.statistics = {name: LayerStatistics(name) for name in views}
        self.dtype, self.positions, self.batch = dtype, positions, 0
        self.generator = torch.Generator().manual_seed(seed)
        self.stride = dict.fromkeys(views, 1)  # of `samples`: doubled whenever they are thinned out
        self.seen: list[_Seen] = []
        self.passed: list[tuple[weakref.ref[Tensor], str]] = []  # what each Identity was given in this batch

    def add(self, name: str, x: Tensor, geometry: tuple[Any, ...], vectors: Vectors) -> None:
        """Adds the input x of a weight; `vectors` turns it into parts [groups, tokens, columns], alike for one geometry."""
        version = x._version  # grows when a tensor is changed in place
        known = next((s for s in self.seen if s.tensor() is x and s.version == version), None)
        if known is None:
            known = self._observe(name, x, version)
            self.seen = [s for s in self.seen if s.tensor() is not None]
            self.seen.append(known)
        if geometry not in known.sums:
            known.sums[geometry] = self._sum(x, vectors)
        product, total, tokens = known.sums[geometry]
        into = self.statistics[name]
        known.readers.append(into)
        into.passes = tuple(dict.fromkeys([*into.passes, *(path for given, path in self.passed if given() is x)]))
        into.mean = total.clone() if into.mean is None else into.mean.add_(total)
        into.moment = product.clone() if into.moment is None else into.moment.add_(product)
        into.tokens += tokens
        into.low, into.high = min(into.low, known.low), max(into.high, known.high)
        into.samples = torch.cat([into.samples, known.drawn[:: self.stride[name]]])
        if len(into.samples) > SAMPLES:
            into.samples, self.stride[name] = into.samples[::2].clone(), self.stride[name] * 2

    def passing(self, path: str, x: Tensor) -> None:
        """Notes that an Identity was given x, before or after the layers that read it."""
        self.passed.append((weakref.ref(x), path))
        for known in self.seen:
            if known.tensor() is x:
                for reader in known.readers:
                    reader.passes = tuple(dict.fromkeys([*reader.passes, path]))

    def _observe(self, name: str, x: Tensor, version: int) -> _Seen:
        if not bool(torch.isfinite(x).all()):
            raise NumericsError(
                f"The input of {name} holds NaN or infinity in calibration batch {self.batch}.",
                "Check that batch's samples and the layers before it.",
            )
        flat = x.detach().flatten()
        low, high = (float(flat.min()), float(flat.max())) if flat.numel() else (0.0, 0.0)
        drawn = flat[torch.randint(flat.numel(), (DRAWN,), generator=self.generator)] if flat.numel() else flat
        return _Seen(weakref.ref(x), version, low, high, drawn.to(torch.float32))

    def _sum(self, x: Tensor, vectors: Vectors) -> tuple[Tensor, Tensor, int]:
        product, total, tokens = None, torch.zeros(()), 0
        for part in vectors(x.detach()):
            rows = part.to(self.dtype)
            product = rows.transpose(1, 2) @ rows if product is None else product.baddbmm_(rows.transpose(1, 2), rows)
            total = total + rows.sum(1)
            tokens += rows.shape[1]
        assert product is not None
        return product, total, tokens

    def read(self, name: str, ids: Tensor) -> None:
        """Adds the ids that an embedding looked up."""
        into, counts = (
            self.statistics[name],
            torch.bincount(ids.detach().flatten(), minlength=self.views[name].shape[0]),
        )
        into.counts = counts if into.counts is None else into.counts + counts
        into.tokens += ids.numel()

    def result(self) -> dict[str, LayerStatistics]:
        for into in self.statistics.values():
            if into.moment is not None and into.mean is not None:
                into.moment = (into.moment / max(1, into.tokens)).squeeze(0)  # one group: no group axis
                into.mean = (into.mean / max(1, into.tokens)).squeeze(0)
        return self.statistics


def collect(
    model: nn.Module,
    batches: Iterable[Batch],
    names: Iterable[str] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    positions: int | None = None,
    seed: int = 0,
) -> dict[str, LayerStatistics]:
    """Runs a model over batches and gathers the statistics of its weights' inputs.

    Args:
        model: run in evaluation mode without gradients; its mode is put back.
        batches: keyword arguments, positional arguments (a tuple), or a function that is given the model.
        names: weights to look at (`layers.weights` lists them); all of them by default.
        dtype: of the sums.
        positions: at most so many output positions of a convolution are used a sample, evenly spaced; all of them by
            default.
        seed: of the draw of `samples`.

    Raises:
        InputError: an unknown name, or a weight that met no input.
        NumericsError: a layer's input holds NaN or infinity.
    """
    views = weights(model)
    wanted = dict.fromkeys(views if names is None else names)
    unknown = [name for name in wanted if name not in views]
    if unknown:
        raise InputError(
            f"The model has no compressible weight {unknown[0]!r}.",
            f"It has: {', '.join(views) or 'none'}.",
        )
    collector = _Collector({name: views[name] for name in wanted}, dtype, positions, seed)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), _hooked(model, collector):
            for batch in batches:
                call(model, batch)
                collector.batch, collector.passed = collector.batch + 1, []
    finally:
        model.train(training)
    silent = sorted(name for name, found in collector.statistics.items() if found.tokens == 0)
    if silent:
        raise InputError(
            f"{silent[0]} met no input in {collector.batch} calibration batches ({len(silent)} such weights).",
            "Calibrate with samples of every modality, or leave those weights out.",
        )
    return collector.result()


def call(model: nn.Module, batch: Batch) -> Any:
    """Runs a model on one batch, however the batch is given."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple) else batch(model)


@contextmanager
def _hooked(model: nn.Module, collector: _Collector) -> Iterator[None]:
    """Pre-hooks on every module whose weights are wanted, for as long as the context lasts."""
    first = {alias: view.name for view in weights(model).values() for alias in (view.name, *view.aliases)}
    by_module: dict[nn.Module, dict[str, str]] = {}
    for path, module, attribute in uses(model):
        name = first[f"{path}.{attribute}".lstrip(".")]
        if name in collector.statistics:
            by_module.setdefault(module, {})[attribute] = name
    handles = [
        module.register_forward_pre_hook(partial(_observe, collector, named)) for module, named in by_module.items()
    ]
    for path, module in model.named_modules():
        if isinstance(module, nn.Identity):
            handles.append(module.register_forward_pre_hook(partial(_pass, collector, path)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pass(collector: _Collector, path: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:  # noqa: ARG001
    if isinstance(inputs[0], Tensor):
        collector.passing(path, inputs[0])


def _observe(collector: _Collector, named: dict[str, str], module: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Adds one call of a module to the statistics of its weights (`named`: attribute -> weight name)."""
    kind, x = kind_of(module), inputs[0]
    if kind == "embedding":
        collector.read(named["weight"], x)
    elif kind == "linear":
        collector.add(named["weight"], x, ("last axis",), _along_last)
    elif isinstance(module, nn.Conv1d | nn.Conv2d):
        geometry = (
            module.kernel_size,
            module.stride,
            module.padding,
            module.dilation,
            module.groups,
            module.padding_mode,
        )
        collector.add(named["weight"], x, geometry, partial(patches, module, positions=collector.positions))
    elif isinstance(module, nn.LSTM | nn.GRU):
        path = next(iter(named.values())).rpartition(".")[0]
        for attribute, vectors in recurrent_inputs(module, path, *inputs):
            if attribute in named:
                collector.add(named[attribute], vectors, ("last axis",), _along_last)


def _along_last(x: Float[Tensor, "*batch columns"]) -> list[Float[Tensor, "1 tokens columns"]]:
    return [x.reshape(1, -1, x.shape[-1])]


def patches(
    module: nn.Conv1d | nn.Conv2d, x: Float[Tensor, "*batch"], positions: int | None = None
) -> Iterator[Float[Tensor, "groups tokens columns"]]:
    """The vectors that a convolution's weight rows are multiplied with, some samples at a time, in the order of the
    weight's columns.
    """
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    geometry = [module.kernel_size, module.dilation, module.stride]
    flat = isinstance(module, nn.Conv1d)
    if x.dim() == (2 if flat else 3):
        x = x[None]
    x = nn.functional.pad(x, module._reversed_padding_repeated_twice, mode=mode)  # 'same' padding is known only there
    if flat:
        x, geometry = x[:, :, None], [(1, *size) for size in geometry]
    kernel, dilation, stride = geometry
    once = max(1, UNFOLDED // max(1, x[0].numel() * kernel[0] * kernel[1])) if len(x) else 1
    for part in x.split(once):
        columns = nn.functional.unfold(
            part, kernel, dilation=dilation, stride=stride
        )  # [batch, channels * kernel, positions]
        if positions is not None and columns.shape[2] > positions:
            columns = columns[:, :, torch.linspace(0, columns.shape[2] - 1, positions).round().long()]
        split = columns.reshape(len(columns), module.groups, -1, columns.shape[2])
        yield split.permute(1, 0, 3, 2).reshape(module.groups, -1, split.shape[2])
