"""How a model turns queries and keys by their position, found by watching it, so that the attention operator can do it.

GroupQueryAttention turns the halves of a head against each other (rotary embedding, Su et al. 2021, in the order of GPT-NeoX):

    [a, b] -> [a cos - b sin, b cos + a sin]

with one table of cosines and one of sines by position. A model that does just that, through its module's function
`apply_rotary_pos_emb`, has its tables taken; any other keeps its own arithmetic in the graph, in front of the attention.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

FUNCTION = "apply_rotary_pos_emb"
Table = tuple[Tensor, Tensor]


class Rotary(NamedTuple):
    """Tables of a model: cosine and sine [positions, head width / 2], and which of them each attention uses, in order."""

    tables: list[Table]
    order: list[int]


def _turn(x: Float[Tensor, "... width"], cos: Tensor, sin: Tensor) -> Float[Tensor, "... width"]:
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def _functions(model: nn.Module) -> list[dict[str, Any]]:
    """Namespaces of the model's modules that hold the function."""
    spaces = {id(space): space for m in model.modules() if (space := vars(sys.modules[type(m).__module__]))}
    return [space for space in spaces.values() if callable(space.get(FUNCTION))]


@contextmanager
def _instead(model: nn.Module, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Puts make(function) in the function's place."""
    with ExitStack() as undo:
        for space in _functions(model):
            undo.callback(space.__setitem__, FUNCTION, space[FUNCTION])
            space[FUNCTION] = make(space[FUNCTION])
        yield


@contextmanager
def unrotated(model: nn.Module, *, on: bool) -> Iterator[None]:
    """While `on`, the model leaves queries and keys unturned."""
    if not on:
        yield
        return
    with _instead(model, lambda _: lambda q, k, *args, **kwargs: (q, k)):  # noqa: ARG005 - takes what the function takes
        yield


def find_rotary(model: nn.Module, ids: Int[Tensor, "1 tokens"], context: int, widths: list[int]) -> Rotary | None:
    """The tables for positions below `context`, or None where the model turns in another way, or not all of each head.

    Args:
        model: takes inputs_embeds.
        ids: a short prompt to watch it with.
        context: rows of the tables.
        widths: of a head, for each attention.
    """
    makers: list[tuple[Table, Callable[[], Any]]] = []
    calls: list[tuple[Tensor, Tensor, bool]] = []

    def remember(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if isinstance(output, tuple) and len(output) == 2 and all(isinstance(x, Tensor) for x in output):
            makers.append(
                (output, lambda: module(*_long(args), **dict(zip(kwargs, _long(kwargs.values()), strict=True))))
            )

    def _long(values: Any) -> list[Any]:
        positions = torch.arange(context)
        return [
            positions.expand(*v.shape[:-1], -1)
            if isinstance(v, Tensor) and not v.is_floating_point() and v.shape[-1:] == ids.shape[-1:]
            else v
            for v in values
        ]

    def watch(function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *args: Any, **kwargs: Any) -> Any:
            turned = function(q, k, cos, sin, *args, **kwargs)
            ours = [_turn(x, cos[:, None], sin[:, None]) for x in (q, k)] if cos.shape[-1] == q.shape[-1] else None
            same = ours is not None and all(torch.allclose(a, b, atol=1e-5) for a, b in zip(turned, ours, strict=True))
            calls.append((cos, sin, same))
            return turned

        return watched

    hooks = [module.register_forward_hook(remember, with_kwargs=True) for module in model.modules()]
    try:
        with torch.no_grad(), _instead(model, watch):
            model(inputs_embeds=model.get_input_embeddings()(ids), use_cache=False)  # type: ignore[operator]
    finally:
        for hook in hooks:
            hook.remove()
    if [cos.shape[-1] for cos, *_ in calls] != widths or not all(same for *_, same in calls):
        return None
    return _tables([(cos, sin) for cos, sin, _ in calls], makers)


def _tables(used: list[Table], makers: list[tuple[Table, Callable[[], Any]]]) -> Rotary | None:
    """The tables of `used` made longer by the modules that made them."""
    tables: list[Table] = []
    order: list[int] = []
    known: dict[int, int] = {}
    for cos, sin in used:
        if id(cos) not in known:
            make = next((make for made, make in makers if made[0] is cos and made[1] is sin), None)
            if make is None:
                return None
            with torch.no_grad():
                longer = [x[0].float() for x in make()]
            half = cos.shape[-1] // 2
            alike = (
                torch.allclose(long[: short.shape[1]], short[0].float(), atol=1e-6)  # not one that its length changes
                and torch.equal(long[:, :half], long[:, half:])
                for long, short in zip(longer, (cos, sin), strict=True)
            )
            if not all(alike):
                return None
            known[id(cos)] = len(tables)
            tables.append((longer[0][:, :half].contiguous(), longer[1][:, :half].contiguous()))
        order.append(known[id(cos)])
    return Rotary(tables, order)
