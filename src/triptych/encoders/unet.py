"""U-Net: a convolutional network down to coarse grids, and steps back up that join each grid with the finer one before it.

A step up in words: h = ReLU(norm(conv(finer)) + enlarged(norm(conv1x1(coarser)))), then ReLU(norm(conv(h))). Two convolutions whose
outputs are added are one convolution of the two grids put side by side, as the paper has it; apart, both fold with their norms, the
second runs on the small grid, and channels can be removed. Grids are enlarged by repeating the nearest pixel.

Shapes: image "batch channels height width"; the tokens are the places of the finest grid, row by row, `stem_stride` pixels apart
where all steps back are taken and twice as far for each that is left out.

Source: Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image Segmentation, MICCAI 2015; the way down is that of `cnn`.
"""

from typing import Any, ClassVar, Literal

from jaxtyping import Float
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.encoders.cnn import CNNEncoder, ConvNorm
from triptych.encoders.masked import all_real
from triptych.registry import register
from triptych.structure import Encoded, Features, Member, Modality, Settings, Width, prefixed


class Up(nn.Module):
    """One step up, to `width` channels on the finer grid."""

    def __init__(self, coarser: int, finer: int, width: int) -> None:
        super().__init__()
        self.below = ConvNorm(coarser, width, 1, 1, 2)
        self.beside = ConvNorm(finer, width, 3, 1, 2)
        self.second = ConvNorm(width, width, 3, 1, 2)

    def forward(
        self, coarser: Float[Tensor, "batch coarser rows columns"], finer: Float[Tensor, "batch finer height width"]
    ) -> Float[Tensor, "batch out height width"]:
        """The joined grid."""
        enlarged = F.interpolate(self.below(coarser), finer.shape[2:], mode="nearest")
        return self.second((enlarged + self.beside(finer)).relu()).relu()


@register("encoder", "unet")
class UNetEncoder(nn.Module):
    """U-Net for images; its tokens are a fine grid, and the vector is their mean."""

    class Config(Settings):
        """The way down is that of `cnn` with these settings; `up` are the widths of the steps back, the coarsest first."""

        widths: tuple[PositiveInt, ...] = Field((32, 64, 128, 128), min_length=1)
        blocks: tuple[PositiveInt, ...] = (1, 1, 2, 2)
        stem: PositiveInt = 24
        stem_kernel: Literal[1, 3, 5, 7] = 3
        stem_stride: PositiveInt = 2
        up: tuple[PositiveInt, ...] = Field((96, 64, 32, 24), min_length=1)

        @model_validator(mode="after")
        def no_step_beyond_the_stem(self) -> "UNetEncoder.Config":
            """Refuses more steps back than there were."""
            if len(self.up) > len(self.widths):
                raise ValueError(f"{len(self.up)} steps up after {len(self.widths)} steps down")
            return self

    kinds: ClassVar[frozenset[Modality]] = frozenset({"image"})

    def __init__(self, config: Config, features: Features) -> None:
        super().__init__()
        self.down = CNNEncoder(CNNEncoder.Config(**config.model_dump(exclude={"up"})), features)
        finer = (config.stem, *config.widths)[::-1][1:]
        coarser = (config.widths[-1], *config.up)
        self.up = nn.ModuleList(Up(*sizes) for sizes in zip(coarser, finer, config.up, strict=False))
        self.width = config.up[-1]

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Encoded:
        """The finest grid that is reached, as tokens, and their mean."""
        joined, *finer = (grid.x for grid in reversed(self.down.grids(x)))
        for step, grid in zip(self.up, finer, strict=False):
            joined = step(joined, grid)
        tokens = joined.flatten(2).transpose(1, 2)
        return Encoded(tokens.mean(1), tokens, all_real(tokens))

    def widths(self) -> list[Width]:
        """Those of the way down, whose grids the steps up read too, and both sets of channels of each step but the last one's."""
        return self._widths()[:-1]

    def pooled(self) -> Width:
        """The channels of the finest grid."""
        return self._widths()[-1]

    def _widths(self) -> list[Width]:
        readers: dict[str, tuple[Member, ...]] = {}
        last, *finer = (f"down.{name}" for name in reversed(self.down.streams()))
        found: list[Width] = []
        for index, beside in enumerate(finer[: len(self.up)]):
            step: Any = self.up[index]
            name = f"up.{index}"
            readers[last] = (*readers.get(last, ()), Member(f"{name}.below.conv.weight", 1))
            readers[beside] = (*readers.get(beside, ()), Member(f"{name}.beside.conv.weight", 1))
            last = f"{name}.stream"
            inner = (*step.below.producers(f"{name}.below"), *step.beside.producers(f"{name}.beside"))
            units = step.second.conv.weight.shape
            found.append(Width(f"{name}.inner", units[1], inner, (Member(f"{name}.second.conv.weight", 1),)))
            found.append(Width(last, units[0], step.second.producers(f"{name}.second"), ()))
        down = prefixed("down", [*self.down.widths(), self.down.pooled()])
        return [w._replace(consumers=(*w.consumers, *readers.get(w.name, ()))) for w in (*down, *found)]

    def droppable(self) -> list[str]:
        """The blocks of the way down that add to their input."""
        return [f"down.{name}" for name in self.down.droppable()]
