"""Round to nearest: every weight to the nearest level of its group's grid, scales found by search.

No calibration is needed; with second moments the scale search weighs each column by E[x_j^2], which costs nothing and
helps at 2 to 4 bits. It is also what GPTQ falls back to where inputs have no second moment, as in an embedding.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from triptych.compress.quantize.grid import Codes, Grid, encode, finish, search_scale
from triptych.registry import register


def importances(
    columns: int, moment: Float[Tensor, "columns columns"] | Float[Tensor, "blocks columns columns"] | None
) -> Float[Tensor, "blocks columns"]:
    """The weight of each squared error: diag H of each block of rows, or ones."""
    return torch.ones(1, columns) if moment is None else moment.reshape(-1, columns, columns).diagonal(dim1=1, dim2=2)


@register("quantizer", "rtn")
def quantize(
    weight: Float[Tensor, "rows columns"],
    moment: Float[Tensor, "columns columns"] | Float[Tensor, "blocks columns columns"] | None,
    grid: Grid,
) -> Codes:
    """Rounds a matrix to the nearest codes, column by column on its own.

    Args:
        weight: the matrix; float64 is computed in float64, all else in float32.
        moment: E[x x'] of the layer's inputs, one for each block of rows of a grouped convolution, or None for white
            inputs.
        grid: the levels.
    """
    w = weight.detach() if weight.dtype == torch.float64 else weight.detach().to(torch.float32)
    columns = w.shape[1]
    scale, zero = search_scale(w, importances(columns, moment), grid)
    return finish(encode(w, grid.spread(scale, columns), grid.spread(zero, columns), grid), scale, zero, grid)
