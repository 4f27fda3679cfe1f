"""Convolutional network: a stem, stages of blocks that halve the grid and widen it, and an average over what is left.

A block in words: convolution, norm, ReLU, convolution, norm, plus the block's own input, ReLU. The first block of a
stage has stride 2 and brings its input to the new shape with a 1 x 1 convolution. A plain (not residual) block leaves
the input out.

Shapes: image and audio "batch channels height width" (a spectrogram is a picture with one channel), text "batch tokens"
of ids, which are embedded and convolved along time. Batch norm stands directly after its convolution, so that it can be
folded into it.

Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 3; for text, Kim, Convolutional
Neural Networks for Sentence Classification, EMNLP 2014.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

from jaxtyping import Float, Int
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from triptych.encoders.masked import Masked, all_real, masked_mean, real_tokens
from triptych.registry import register
from triptych.structure import Encoded, Features, Member, Modality, Settings, Width


class ConvNorm(nn.Module):
    """A convolution and the batch norm of its outputs, over a grid of 1 (time) or 2 (picture) axes."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, axes: int) -> None:
        super().__init__()
        conv, norm = (nn.Conv1d, nn.BatchNorm1d) if axes == 1 else (nn.Conv2d, nn.BatchNorm2d)
        self.conv = conv(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = norm(outputs)

    def forward(self, x: Float[Tensor, "batch inputs *grid"]) -> Float[Tensor, "batch outputs *smaller"]:
        """norm(conv(x))"""
        return self.norm(self.conv(x))

    def producers(self, prefix: str) -> tuple[Member, ...]:
        """Everything that makes the output channels, whether or not the norm has been folded into the convolution."""
        return tuple(Member(f"{prefix}.{name}", 0) for name, tensor in self.state_dict().items() if tensor.ndim)


def silenced(x: Float[Tensor, "batch channels *grid"], mask: Tensor | None) -> Float[Tensor, "batch channels *grid"]:
    """Zero where the mask is False, so that the next convolution reads padding as it reads the border."""
    return x if mask is None else x * mask.unsqueeze(1)


class Block(nn.Module):
    """ReLU(norm(conv(ReLU(norm(conv(x))))) + shortcut(x)), or without the shortcut."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, axes: int, *, residual: bool) -> None:
        super().__init__()
        self.stride = stride
        self.first = ConvNorm(inputs, outputs, kernel, stride, axes)
        self.second = ConvNorm(outputs, outputs, kernel, 1, axes)
        self.shortcut: nn.Module | None = None
        if residual:
            same = stride == 1 and inputs == outputs
            self.shortcut = nn.Identity() if same else ConvNorm(inputs, outputs, 1, stride, axes)

    def forward(self, stream: Masked) -> Masked:
        """The block's output and the mask of its grid."""
        mask = None if stream.mask is None else stream.mask[:, :: self.stride]
        hidden = silenced(self.first(stream.x).relu(), mask)
        out = self.second(hidden)
        if self.shortcut is not None:
            out = out + self.shortcut(stream.x)
        return Masked(silenced(out.relu(), mask), mask)

    def inner(self, name: str) -> Width:
        """The channels between the two convolutions of the block that is called `name`."""
        producers, consumers = self.first.producers(f"{name}.first"), (Member(f"{name}.second.conv.weight", 1),)
        return Width(f"{name}.inner", self.first.conv.weight.shape[0], producers, consumers)


@register("encoder", "cnn")
class CNNEncoder(nn.Module):
    """Residual or plain convolutional network for image, audio and text."""

    class Config(Settings):
        """`widths` and `blocks` have one entry a stage; `dropout` acts on the pooled vector.

        `stem` is the width of the first convolution (default: that of the first stage), `stem_kernel` and `stem_stride` its
        kernel and stride (text keeps every position).
        """

        widths: tuple[PositiveInt, ...] = Field((32, 64, 128), min_length=1)
        blocks: tuple[PositiveInt, ...] = (2, 2, 2)
        residual: bool = True
        kernel: Literal[1, 3, 5, 7] = 3
        stem: PositiveInt | None = None
        stem_kernel: Literal[1, 3, 5, 7] = 3
        stem_stride: PositiveInt = 2
        dropout: float = Field(0.0, ge=0, lt=1)

        @model_validator(mode="after")
        def one_entry_a_stage(self) -> "CNNEncoder.Config":
            """Refuses stages without a width or without blocks."""
            if len(self.widths) != len(self.blocks):
                raise ValueError(
                    f"{len(self.widths)} widths and {len(self.blocks)} blocks: give both one entry a stage"
                )
            return self

    kinds: ClassVar[frozenset[Modality]] = frozenset({"image", "audio", "series", "text"})

    def __init__(self, config: Config, features: Features) -> None:
        super().__init__()
        first, axes, stride = config.stem or config.widths[0], 2, config.stem_stride
        channels = features.shape[0]
        self.embed: nn.Embedding | None = None
        if features.kind == "text":
            self.embed = nn.Embedding(features.vocabulary, first, padding_idx=0)
            channels, axes, stride = first, 1, 1
        self.stem = ConvNorm(channels, first, config.stem_kernel, stride, axes)
        self.stages = nn.ModuleList()
        inputs = first
        for outputs, depth in zip(config.widths, config.blocks, strict=True):
            stage = nn.Sequential()
            for index in range(depth):
                stride = 2 if index == 0 else 1
                stage.append(Block(inputs, outputs, config.kernel, stride, axes, residual=config.residual))
                inputs = outputs
            self.stages.append(stage)
        self.dropout = nn.Dropout(config.dropout)
        self.width = inputs

    def forward(self, x: Float[Tensor, "batch channels height width"] | Int[Tensor, "batch tokens"]) -> Encoded:
        """The mean over the last grid, and the grid itself as tokens."""
        stream = self.grids(x)[-1]
        tokens = stream.x.flatten(2).transpose(1, 2)
        pooled = self.dropout(masked_mean(tokens, stream.mask))
        return Encoded(pooled, tokens, all_real(tokens) if stream.mask is None else stream.mask)

    def grids(self, x: Float[Tensor, "batch channels height width"] | Int[Tensor, "batch tokens"]) -> list[Masked]:
        """The outputs of the stem and of each stage, ever coarser."""
        mask = None
        if self.embed is not None:
            mask = real_tokens(x)
            x = silenced(self.embed(x).transpose(1, 2), mask)
        found = [Masked(silenced(self.stem(x).relu(), mask), mask)]
        for stage in self.stages:
            found.append(stage(found[-1]))
        return found

    def widths(self) -> list[Width]:
        """Each block's inner channels, and each stream of channels that blocks add to and read from, but for the last one."""
        return self._widths()[:-1]

    def pooled(self) -> Width:
        """The last stream: its mean is the pooled vector."""
        return self._widths()[-1]

    def streams(self) -> list[str]:
        """The names of the widths of `grids`."""
        return ["stem.stream", *(f"{name}.stream" for name, block in self._blocks() if block.stride == 2)]

    def _widths(self) -> list[Width]:
        """All widths in order; a stream begins at the stem and at every block that does not simply add to what it read."""
        found = []
        if self.embed is not None:
            units = self.embed.weight.shape[1]
            found.append(Width("embed", units, (Member("embed.weight", 1),), (Member("stem.conv.weight", 1),)))
        stream, producers, consumers = "stem", self.stem.producers("stem"), tuple[Member, ...]()
        for name, block in self._blocks():
            found.append(block.inner(name))
            consumers += (Member(f"{name}.first.conv.weight", 1),)
            written = block.second.producers(f"{name}.second")
            if isinstance(block.shortcut, nn.Identity):  # the block adds to the stream, which goes on
                producers += written
                continue
            if isinstance(block.shortcut, ConvNorm):
                consumers += (Member(f"{name}.shortcut.conv.weight", 1),)
                written += block.shortcut.producers(f"{name}.shortcut")
            found.append(Width(f"{stream}.stream", block.first.conv.weight.shape[1], producers, consumers))
            stream, producers, consumers = name, written, ()
        channels = self.get_parameter(producers[0].parameter).shape[0]
        return [*found, Width(f"{stream}.stream", channels, producers, consumers)]

    def droppable(self) -> list[str]:
        """The blocks that add to their input: without one, the input goes on unchanged."""
        return [name for name, block in self._blocks() if isinstance(block.shortcut, nn.Identity)]

    def _blocks(self) -> Iterator[tuple[str, Block]]:
        """The blocks in order, by name; those that were dropped are left out."""
        return ((name, module) for name, module in self.named_modules() if isinstance(module, Block))
