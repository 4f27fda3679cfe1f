"""Series cells: numbers over time, as sensors give them, or features of a sound that were made elsewhere (MFCC).

A cell is the path of a .npy file, or a list in the table itself, of shape [steps, channels]; one number a step is one channel.
"""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from triptych.data import augment as change
from triptych.data.decode import file_content, media_source
from triptych.errors import InputError, LimitError
from triptych.limits import LIMITS
from triptych.structure import Features, Modality, Settings


class SeriesFeatures:
    """What a series becomes: (1, channels, steps), zeros after its end.

    Args:
        config: length, normalisation and augmentation.
        mean: of each channel over the training rows.
        std: standard deviation of each channel.
    """

    class Config(Settings):
        """How series are cut, normalised and, in training, varied. What is None is chosen by `fit`."""

        steps: int | None = Field(None, ge=1, description="padded or cut to this; default: the longest of the data")
        normalise: Literal["dataset", "none"] = Field(
            "dataset", description="each channel by the training rows, or not"
        )
        stretch: float = Field(0.0, ge=0, lt=1, description="faster or slower by at most this share")
        noise: float = Field(0.0, ge=0, description="standard deviation, of normalised channels")
        mask_bands: int = Field(0, ge=0)
        mask_frames: int = Field(0, ge=0)
        masks: int = Field(1, ge=0)

    kind: ClassVar[Modality] = "series"

    def __init__(self, config: Config, mean: tuple[float, ...] = (0.0,), std: tuple[float, ...] = (1.0,)) -> None:
        self.config = config
        self.mean, self.std = mean, std

    @property
    def steps(self) -> int:
        """The length of a sample."""
        return self.config.steps or 1

    @property
    def shape(self) -> Features:
        """What an encoder reads."""
        return Features(kind="series", shape=(1, len(self.mean), self.steps))

    def fit(self, cells: Iterable[Any], root: Path = Path(), where: str = "the training table") -> "SeriesFeatures":
        """Find the longest series, and the mean and deviation of each channel."""
        known = [decode_series(cell, root, where) for cell in cells]
        if not known:
            return self
        channels = known[0].shape[1]
        for values in known:
            _refuse_channels(values, channels, where)
        config = self.config.model_copy(update={"steps": self.config.steps or max(map(len, known))})
        if config.normalise == "none":
            return type(self)(config, (0.0,) * channels, (1.0,) * channels)
        every = np.concatenate(known).astype(np.float64)
        std = np.maximum(every.std(0), 1e-6)
        return type(self)(config, tuple(every.mean(0).tolist()), tuple(std.tolist()))

    def load(self, cell: Any, root: Path, where: str) -> Float[Tensor, "1 channels steps"]:
        """Read one cell, normalise it, pad it with zeros or cut it.

        Raises:
            InputError: no such file, not numbers of two axes, a NaN, or other channels than in training.
            LimitError: it is too large.
        """
        values = decode_series(cell, root, where)
        _refuse_channels(values, len(self.mean), where)
        scaled = (values - np.array(self.mean)) / np.array(self.std)
        x = torch.from_numpy(np.ascontiguousarray(scaled.T[None, :, : self.steps], dtype=np.float32))
        return functional.pad(x, (0, self.steps - x.shape[-1]))

    def features(
        self,
        stack: Float[Tensor, "batch 1 channels steps"],
        augment: bool = False,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch 1 channels steps"]:
        """The series; with augmentation stretched, masked and with noise on what is not padding."""
        c = self.config
        if not augment:
            return stack
        draw = generator or torch.default_generator
        x = change.change_speed(stack, draw, share=c.stretch) if c.stretch else stack
        real = x.any(dim=2, keepdim=True)
        if c.noise:
            x = x + c.noise * torch.randn(x.shape, generator=draw) * real
        if c.masks and (c.mask_bands or c.mask_frames):
            x = change.mask_spectrogram(x, draw, bands=c.mask_bands, frames=c.mask_frames, masks=c.masks)
        return x

    def absent(self) -> Float[Tensor, "1 channels steps"]:
        """Stands in for a missing cell, beside a presence of False."""
        return torch.zeros(self.shape.shape)

    def state(self) -> dict[str, Any]:
        """Everything `from_state` needs, ready for JSON."""
        return {"config": self.config.model_dump(mode="json"), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "SeriesFeatures":
        """The features that `state` came from."""
        return cls(cls.Config(**state["config"]), tuple(state["mean"]), tuple(state["std"]))


def decode_series(cell: Any, root: Path, where: str) -> Float[np.ndarray, "steps channels"]:
    """The numbers of a cell.

    Raises:
        InputError: no such file, no .npy of numbers with one or two axes, nothing in it, or a NaN.
        LimitError: too many bytes.
    """
    name = "the cell"
    try:
        if isinstance(cell, list | tuple | np.ndarray):
            values = np.asarray(cell, dtype=np.float32)
        else:
            name, content = file_content(media_source(cell, root, where), where, LIMITS)
            values = np.load(io.BytesIO(content), allow_pickle=False).astype(np.float32)
    except (ValueError, TypeError, EOFError) as error:
        raise InputError(f"{where}: {name} is no array of numbers ({error}).", "Save it with numpy.save.") from error
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or values.size == 0:
        shape = " x ".join(map(str, values.shape))
        raise InputError(f"{where}: {name} has the shape {shape}, which is not [steps, channels].", "Mend the cell.")
    if values.nbytes > LIMITS.file_bytes:
        raise LimitError(f"{where}: {name} has {values.nbytes:,} bytes of numbers.", "Cut it into shorter series.")
    if not np.isfinite(values).all():
        step, channel = np.argwhere(~np.isfinite(values))[0]
        raise InputError(
            f"{where}: {name} holds NaN or infinity at step {step}, channel {channel}.",
            "Mend it or leave the cell empty.",
        )
    return values


def _refuse_channels(values: Float[np.ndarray, "steps channels"], channels: int, where: str) -> None:
    if values.shape[1] != channels:
        raise InputError(
            f"{where}: the series has {values.shape[1]} channels, but those of the training rows have {channels}.",
            "Give every row the same channels.",
        )
