"""Where an encoder still knows places: the layer whose features lie on a grid over the picture or the spectrogram.

Found by running a row and looking: the last layer whose outputs lie on a grid of at least `CELLS` cells and move the answer.
Deeper grids mean more but show less: the last one of a small network is often 2 x 2. The last block with attention ends the
search, for behind it every cell holds something of all others.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from triptych.evaluate.explain.subject import Subject

Output = tuple[str, Tensor, Tensor | None]  # a layer's name, its features, and how they move the model's outputs

CELLS = 25
SPECIAL_TOKENS = 8  # at most so many class tokens and registers stand before the tokens of a grid


class Grid(NamedTuple):
    """The layer called `layer` in its encoder, whose features lie on `rows` x `columns` cells.

    They stand as "batch channels rows columns", or as "batch tokens channels" with `skipped` tokens before the first cell.
    """

    layer: str
    rows: int
    columns: int
    skipped: int = 0

    def cells(self, x: Tensor) -> Float[Tensor, "batch channels rows columns"]:
        """Features of the layer as a grid."""
        return x if x.ndim == 4 else x[:, self.skipped :].transpose(1, 2).unflatten(2, (self.rows, self.columns))

    def features(self, cells: Float[Tensor, "batch channels rows columns"], x: Tensor) -> Tensor:
        """The grid as the layer had it, with the skipped tokens of `x`."""
        if x.ndim == 4:
            return cells.clone()  # what comes after may work in place
        return torch.cat([x[:, : self.skipped], cells.flatten(2).transpose(1, 2)], dim=1)


def find_grid(subject: Subject, name: str) -> Grid | None:
    """The grid on which a field is explained; where none has enough cells, the one with most; None where there is none."""
    outputs = _outputs(subject, name)
    shapes = {x.shape[2] * x.shape[3]: (x.shape[2], x.shape[3]) for _, x, _ in outputs if x.ndim == 4}
    kind = subject.kind(name)
    best: Grid | None = None
    for layer, x, gradient in reversed(_before_attention(subject.model.encoders[name], outputs)):
        grid = _grid(layer, x, shapes, kind)
        if gradient is None or grid is None or not grid.cells(gradient).any():
            continue
        if grid.rows * grid.columns >= CELLS:
            return grid
        if best is None or grid.rows * grid.columns > best.rows * best.columns:
            best = grid
    return best


@contextmanager
def tapped(encoder: nn.Module, grid: Grid) -> Iterator[nn.Module]:
    """A module that the cells of the grid pass through, channels first, for as long as the context lasts."""
    tap = nn.Identity()

    def divert(_: nn.Module, __: Any, output: Any) -> Any:
        x = _first(output)
        assert x is not None  # the grid was found in this output
        return _with_first(output, grid.features(tap(grid.cells(x)), x))

    handle = encoder.get_submodule(grid.layer).register_forward_hook(divert)
    try:
        yield tap
    finally:
        handle.remove()


def _outputs(subject: Subject, name: str) -> list[Output]:
    """What each layer of an encoder returned for the first row that has the field, in order, and how it moves the outputs."""
    there = subject.batch.presence[:, subject.model.fields.index(name)].nonzero()[:1, 0]
    seen: list[tuple[str, Tensor]] = []

    def remember(layer: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            x = _first(output)
            if x is not None and x.ndim in (3, 4) and x.requires_grad:
                seen.append((layer, x))

        return hook

    layers = list(subject.model.encoders[name].named_modules())[1:]
    handles = [module.register_forward_hook(remember(layer)) for layer, module in layers]
    try:
        with torch.enable_grad():
            x = subject.batch.inputs[name][there].clone().requires_grad_()
            logits = subject.through(name)(x, subject.vectors[there], subject.batch.presence[there])
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        return []
    # Squared: the sum of logits alone may be constant.
    gradients = torch.autograd.grad(logits.square().sum(), [x for _, x in seen], allow_unused=True)
    return [(layer, x, gradient) for (layer, x), gradient in zip(seen, gradients, strict=True)]


def _before_attention(encoder: nn.Module, outputs: list[Output]) -> list[Output]:
    """What stands before the last block that has attention, ours or a backbone's; everything where none has."""
    attends = [layer for layer, _, _ in outputs if type(encoder.get_submodule(layer)).__name__.endswith("Attention")]
    if not attends:
        return outputs
    block = attends[-1].rpartition(".")[0] or attends[-1]
    return outputs[: next(i for i, (layer, _, _) in enumerate(outputs) if f"{layer}.".startswith(f"{block}."))]


def _grid(layer: str, x: Tensor, shapes: dict[int, tuple[int, int]], kind: str) -> Grid | None:
    """The grid that a layer's features lie on. Tokens lie on that of the patches they came from, or along one axis."""
    if x.ndim == 4:
        return Grid(layer, *x.shape[2:])
    tokens = x.shape[1]
    for skipped in range(min(SPECIAL_TOKENS, tokens)):
        if tokens - skipped in shapes:
            return Grid(layer, *shapes[tokens - skipped], skipped)
    return None if shapes else Grid(layer, *((1, tokens) if kind == "audio" else (tokens, 1)))


def _first(output: Any) -> Tensor | None:
    """The features in a layer's output, which may come with a mask or a state."""
    x = output[0] if isinstance(output, tuple) and output else output
    return x if isinstance(x, Tensor) else None


def _with_first(output: Any, x: Tensor) -> Any:
    if not isinstance(output, tuple):
        return x
    rest = (x, *output[1:])
    return type(output)(*rest) if hasattr(output, "_fields") else rest
