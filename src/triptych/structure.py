"""What the parts of a model say about themselves: the features they read, what they return, and which widths may shrink.

Encoders, fusions and heads are plain modules; these four records are all that the model, the trainer and the compressor know of them.
"""

from typing import Any, Literal, NamedTuple

from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

Modality = Literal["image", "audio", "video", "series", "text", "category", "number"]


class Settings(BaseModel):
    """Base of every configuration: immutable, keyword-only, and an unknown key is an error rather than ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Features(Settings):
    """The tensor an encoder reads, without the batch axis.

    image: shape (channels, height, width); audio: (1, mels, frames); video: (frames, channels, height, width), where a frame
    of zeros alone is padding; series: (1, channels, steps); text: (tokens,) of ids below `vocabulary`, 0 is padding;
    category: (1,) of ids below `vocabulary`; number: (1,).
    """

    kind: Modality
    shape: tuple[int, ...]
    vocabulary: int = 0


class Encoded(NamedTuple):
    """What an encoder returns: one vector a sample, and the sequence it was pooled from."""

    pooled: Float[Tensor, "batch width"]
    tokens: Float[Tensor, "batch tokens width"]
    mask: Bool[Tensor, "batch tokens"]  # True where a token is real, False where it is padding


class Memory(NamedTuple):
    """The tokens of all modalities at one width, for tasks that look at tokens rather than at one vector."""

    tokens: Float[Tensor, "batch tokens width"]
    mask: Bool[Tensor, "batch tokens"]


class Member(NamedTuple):
    """One axis of one parameter or buffer that a width runs along.

    Unit u of `units` owns the indices {r * units * span + u * span + s : r < repeat, s < span} of that axis: `span` neighbours
    belong to one unit (the rows of an attention head, the pixels of a flattened channel) and the whole pattern stands `repeat`
    times (the four gates of an LSTM).
    """

    parameter: str
    axis: int
    span: int = 1
    repeat: int = 1


class Width(NamedTuple):
    """A set of units (channels, features, heads, recurrent units) that can only be removed together.

    `producers` make the units (weight rows, biases, norm scales and statistics); `consumers` read them (weight columns).
    Names are relative to the module that declares the width.
    """

    name: str
    units: int
    producers: tuple[Member, ...]
    consumers: tuple[Member, ...]


def linear_rows(name: str, layer: nn.Linear) -> Width:
    """The outputs of a linear layer called `name`, which nothing here reads."""
    return Width(name, layer.weight.shape[0], (Member(f"{name}.weight", 0), Member(f"{name}.bias", 0)), ())


def passed_on(prefix: str, encoder: Any, reader: str) -> list[Width]:
    """The width of the vector that the encoder standing under `prefix` returns, read by the columns of `reader`.

    Empty where the encoder does not say what makes the vector, or where it must stay whole.
    """
    pooled = encoder.pooled() if hasattr(encoder, "pooled") else None
    moved = prefixed(prefix, [pooled] if pooled else [])
    return [width._replace(consumers=(*width.consumers, Member(reader, 1))) for width in moved]


def prefixed(prefix: str, widths: list[Width]) -> list[Width]:
    """The same widths with every name standing under `prefix`."""

    def move(members: tuple[Member, ...]) -> tuple[Member, ...]:
        return tuple(member._replace(parameter=f"{prefix}.{member.parameter}") for member in members)

    return [Width(f"{prefix}.{w.name}", w.units, move(w.producers), move(w.consumers)) for w in widths]
