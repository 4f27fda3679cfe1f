"""Image cells: decoded, resized to one size as bytes, then augmented and normalised in batches."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor

from triptych.data import augment as change
from triptych.data.decode import decode_image, media_source
from triptych.data.frame import Frame, Resize
from triptych.structure import Features, Modality, Settings

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CHUNK = 32  # images worked on at a time: their floats stay in the cache of a core


class ImageFeatures:
    """What an image cell becomes: a normalised (channels, height, width) tensor.

    Args:
        config: sizes, normalisation and augmentation.
        mean: of each channel from 0 to 1, where `normalise` is "dataset".
        std: standard deviation of each channel.
    """

    class Config(Settings):
        """How images are resized, normalised and, in training, varied."""

        size: tuple[int, int] = Field((64, 64), description="height and width in pixels; one number means both")
        resize: Resize = Field(
            "crop", description="what happens to another aspect ratio: cut the long side, add grey borders, or distort"
        )
        grey: bool = False
        normalise: Literal["half", "imagenet", "dataset"] = Field(
            "half", description="to -1..1, by ImageNet's mean and deviation, or by those of the training images"
        )
        warped: float = Field(
            0.5, ge=0, le=1, description="share of images that are rotated, mirrored, shifted, cropped"
        )
        rotate: float = Field(10.0, ge=0, le=180, description="degrees either way")
        flip: bool = Field(False, description="mirror left and right; wrong for letters and signs")
        shift: float = Field(0.05, ge=0, le=1, description="share of the side")
        crop: float = Field(0.1, ge=0, lt=1, description="share of the side")
        brightness: float = Field(0.2, ge=0, lt=1)
        contrast: float = Field(0.2, ge=0, lt=1)
        saturation: float = Field(0.2, ge=0, lt=1)

        def __init__(self, **values: Any) -> None:
            if isinstance(values.get("size"), int):
                values["size"] = (values["size"], values["size"])
            super().__init__(**values)

    kind: ClassVar[Modality] = "image"

    def __init__(self, config: Config, mean: tuple[float, ...] = (), std: tuple[float, ...] = ()) -> None:
        self.config = config
        self.mean, self.std = mean, std
        if config.normalise == "imagenet":
            mean, std = IMAGENET
        elif config.normalise == "half" or not mean:
            mean, std = (0.5,) * 3, (0.5,) * 3
        centre, spread = torch.tensor(mean), torch.tensor(std)
        if config.grey:
            centre, spread = centre.mean()[None], spread.mean()[None]
        # (x / 255 - mean) / std as one product and one sum
        self._scale = (1 / (255 * spread)).view(-1, 1, 1)
        self._offset = (-centre / spread).view(-1, 1, 1)

    def fit(self, cells: Iterable[Any], root: Path = Path(), where: str = "the training table") -> "ImageFeatures":
        """Measure mean and deviation of the channels over these images, if `normalise` is "dataset"."""
        if self.config.normalise != "dataset":
            return self
        total, squares, count = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), 0
        for cell in cells:
            pixels = self._by_channel(self.load(cell, root, where)).double() / 255
            total += pixels.sum(1)
            squares += pixels.square().sum(1)
            count += pixels.shape[1]
        mean = total / max(count, 1)
        std = (squares / max(count, 1) - mean.square()).clamp(min=1e-6).sqrt()
        return type(self)(self.config, tuple(mean.tolist()), tuple(std.tolist()))

    def load(self, cell: Any, root: Path, where: str) -> UInt8[Tensor, "channels height width"]:
        """Decode and resize one cell.

        Raises:
            InputError: the file is missing or cannot be decoded; `where` names the place.
            LimitError: it is too large.
        """
        return self.arranged(decode_image(media_source(cell, root, where), where))

    def features(
        self,
        stack: UInt8[Tensor, "batch *frames channels height width"],
        augment: bool = False,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch *frames channels height width"]:
        """Normalised floats; augmented if asked, drawing from `generator`. Only videos have the axis of frames."""
        return self.moved(stack, augment, generator)[0]

    def moved(
        self,
        stack: UInt8[Tensor, "batch *frames channels height width"],
        augment: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "batch *frames channels height width"], Float[Tensor, "batch 2 3"]]:
        """As `features`, and how each image was moved (see `augment.draw_warps`), for what lies over it."""
        out = torch.empty(stack.shape, dtype=torch.float32)
        theta = torch.eye(2, 3).repeat(len(stack), 1, 1)
        for start in range(0, len(stack), self._chunk):
            x = stack[start : start + self._chunk].float()
            if augment:
                draw = generator or torch.default_generator
                x = self._recoloured(self._warped(x, theta[start : start + self._chunk], draw), draw)
            torch.mul(x, self._scale, out=out[start : start + self._chunk]).add_(self._offset)
        return out, theta

    @property
    def frame(self) -> Frame:
        """What is seen of a picture."""
        return Frame(size=self.config.size, resize=self.config.resize)

    @property
    def shape(self) -> Features:
        """What an encoder reads."""
        return Features(kind="image", shape=(1 if self.config.grey else 3, *self.config.size))

    def absent(self) -> UInt8[Tensor, "channels height width"]:
        """Stands in for a missing cell, beside a presence of False."""
        return torch.zeros(self.shape.shape, dtype=torch.uint8)

    def state(self) -> dict[str, Any]:
        """Everything `from_state` needs, ready for JSON."""
        return {"config": self.config.model_dump(mode="json"), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "ImageFeatures":
        """The features that `state` came from."""
        return cls(cls.Config(**state["config"]), tuple(state["mean"]), tuple(state["std"]))

    def arranged(self, pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[Tensor, "channels height width"]:
        """A decoded picture in its size and colours."""
        from PIL import Image

        resized = self._resized(Image.fromarray(pixels))
        shown = np.asarray(resized.convert("L"))[..., None] if self.config.grey else np.asarray(resized)
        return torch.from_numpy(shown.transpose(2, 0, 1).copy())

    @property
    def _chunk(self) -> int:
        """How many are worked on at a time."""
        return CHUNK

    def _by_channel(self, loaded: UInt8[Tensor, "channels height width"]) -> UInt8[Tensor, "channels pixels"]:
        """The pixels that mean and deviation are measured over."""
        return loaded.flatten(1)

    def _resized(self, image: Any) -> Any:
        """Pillow's antialiased bicubic resize, aspect ratio as configured."""
        from PIL import Image, ImageOps

        height, width = self.config.size
        if image.size == (width, height):
            return image
        bicubic = Image.Resampling.BICUBIC
        if self.config.resize == "crop":
            return ImageOps.fit(image, (width, height), bicubic)
        if self.config.resize == "pad":
            return ImageOps.pad(image, (width, height), bicubic, color=(128, 128, 128))
        return image.resize((width, height), bicubic)

    def _warped(
        self,
        x: Float[Tensor, "batch channels height width"],
        theta: Float[Tensor, "batch 2 3"],
        generator: torch.Generator,
    ) -> Float[Tensor, "batch channels height width"]:
        """Some of them rotated, mirrored, shifted and cropped, in place; `theta` is told how."""
        c = self.config
        if c.warped and (c.rotate or c.flip or c.shift or c.crop):
            chosen = (torch.rand(len(x), generator=generator) < c.warped).nonzero()[:, 0]
            drawn = change.draw_warps(
                (len(chosen), *x.shape[2:]), generator, rotate=c.rotate, flip=c.flip, shift=c.shift, crop=c.crop
            )
            theta[chosen], x[chosen] = drawn, change.warp(x[chosen], drawn)
        return x

    def _recoloured(
        self, x: Float[Tensor, "batch channels height width"], generator: torch.Generator
    ) -> Float[Tensor, "batch channels height width"]:
        """Of other brightness, contrast and saturation, still from 0 to 255."""
        c = self.config
        if c.brightness or c.contrast or c.saturation:
            strengths = {"brightness": c.brightness, "contrast": c.contrast, "saturation": c.saturation}
            return change.recolour(x, generator, **strengths, white=255.0)
        return x
