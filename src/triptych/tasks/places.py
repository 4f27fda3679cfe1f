"""Tokens as places of a picture: what the tasks that answer place by place have in common."""

from math import ceil, floor

from jaxtyping import Float
from torch import Tensor

from triptych.errors import InputError


def on_grid(
    tokens: Float[Tensor, "batch places width"], size: tuple[int, int]
) -> Float[Tensor, "batch down across width"]:
    """The tokens on the grid that they were read from, row by row.

    An encoder that looks every s pixels leaves a grid of the height and the width over s, rounded up by convolutions, down by patches.

    Args:
        tokens: of an image encoder.
        size: height and width of its image, in pixels.

    Raises:
        InputError: there is no such grid.
    """
    places = int(tokens.shape[1])
    for stride in range(1, max(size) + 1):
        for whole in (ceil, floor):
            rows, columns = (whole(side / stride) for side in size)
            if rows * columns == places:
                return tokens.unflatten(1, (rows, columns))
    raise InputError(
        f"The {places} tokens of the encoder lie on no grid over a picture of {size[0]} x {size[1]} pixels.",
        "Choose an encoder that gives one token a place (unet, cnn, pretrained with `scales`), and the fusion `context`.",
    )
