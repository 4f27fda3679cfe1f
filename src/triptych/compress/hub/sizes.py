"""Bytes that weights take in a folder, as they are and rounded: the one count of the budget, the forecast and the report."""

from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

from triptych.compress.quantize.layers import LayerScheme
from triptych.export.compressed_tensors import Stored, layout, stored_bytes
from triptych.models.folder import Weights
from triptych.models.folder import stored_bytes as dense_bytes
from triptych.models.stream import Stream


class Sizes(NamedTuple):
    """Bytes of every parameter by its name: in the folder that was given, and in the one that is made."""

    before: Mapping[str, int]
    after: Mapping[str, int]
    beside: int = 0  # of tensors that are new: the scales of a cache

    @property
    def saved(self) -> int:
        """By how much the new folder is smaller."""
        return sum(self.before.values()) - sum(self.after.values()) - self.beside


def sizes(
    stream: Stream, weights: Weights, schemes: Mapping[str, LayerScheme], plain: Collection[str], beside: int = 0
) -> Sizes:
    """What every parameter takes; `plain` names the layers that transformers cannot load packed."""
    before = dense_bytes(stream.model, weights)
    entries = {name: stored_as(stream, name, scheme, plain) for name, scheme in schemes.items()}
    rounded = {n: stored_bytes(stream.model_shape(n), entry) for n, entry in entries.items()}
    return Sizes(before, before | rounded, beside)


def stored_as(stream: Stream, name: str, scheme: LayerScheme, plain: Collection[str]) -> Stored:
    """The layout of one rounded weight."""
    assert scheme.weight is not None
    inputs: Literal["token"] | None = "token" if scheme.per_token else None
    return layout(scheme.weight, stream.model_shape(name)[1], inputs, plain=name.removesuffix(".weight") in plain)
