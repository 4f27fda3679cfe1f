"""Frames over time: an image encoder reads every frame of a clip by itself, a recurrent network or a transformer their vectors.

In words: v_t = W frame(x_t) + b for every frame t, and then time(v_1, ..., v_T). With `together` k, the picture x_t is made of
the channels of frame t and the k - 1 before it, so that one convolution sees what moves. The vectors are a series, of which
`rnn` and `transformer` leave out what is padding; to a transformer every frame is a token of its own.

Shapes: video "batch frames channels height width". All frames of a batch pass the image encoder at once, as pictures. A frame
of zeros alone is padding, which the second encoder leaves out.

Source: Karpathy et al., Large-scale Video Classification with Convolutional Neural Networks, CVPR 2014, for frames read
together; Donahue et al., Long-term Recurrent Convolutional Networks for Visual Recognition and Description, CVPR 2015; with
attention in place of recurrence, Neimark et al., Video Transformer Network, ICCV 2021.
"""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from triptych.encoders.masked import any_or_all
from triptych.errors import InputError
from triptych.registry import build, find, register
from triptych.structure import Encoded, Features, Modality, Settings, Width, passed_on, prefixed

# The encoders that leave padding out, and what they are where nothing else is said.
TIME: dict[str, dict[str, Any]] = {"rnn": {"cell": "gru", "layers": 1}, "transformer": {"patch": 1}}


@register("encoder", "frames")
class FramesEncoder(nn.Module):
    """Any image encoder on each frame, then a recurrent network or a transformer over time.

    Raises:
        InputError: `frame` names an encoder that does not read images, or `time` one that cannot leave padding out.
    """

    class Config(Settings):
        """`frame` and `time` are encoders, name and settings; `width` is that of a frame's vector between the two.

        `together` frames are read as one picture, or as many as a clip has.
        """

        frame: dict[str, Any] = {"name": "cnn"}
        time: dict[str, Any] = {"name": "rnn"}
        width: PositiveInt = 128
        together: PositiveInt = 1

    kinds: ClassVar[frozenset[Modality]] = frozenset({"video"})

    def __init__(self, config: Config, features: Features) -> None:
        super().__init__()
        frames, channels, *sides = features.shape
        self.together = min(config.together, frames)
        frame, time = ({"name": default, **asked} for default, asked in (("cnn", config.frame), ("rnn", config.time)))
        if "image" not in find("encoder", frame["name"]).kinds:
            raise InputError(f"Encoder {frame['name']!r} does not read images, and frames are images.", "Name another.")
        if time["name"] not in TIME:
            raise InputError(f"Encoder {time['name']!r} does not read frames over time.", f"Use {' or '.join(TIME)}.")
        self.frame = build("encoder", frame, Features(kind="image", shape=(channels * self.together, *sides)))
        self.project = nn.Linear(self.frame.width, config.width)
        steps = Features(kind="series", shape=(1, config.width, frames - self.together + 1))
        self.time = build("encoder", TIME[time["name"]] | time, steps)
        self.width = self.time.width
        if hasattr(self.frame, "config"):  # a pretrained one has read its architecture
            known = self.frame.config.model_dump(mode="json")
            self.config = config.model_copy(update={"frame": {"name": frame["name"], **known}})

    def forward(self, x: Float[Tensor, "batch frames channels height width"]) -> Encoded:
        """What the second encoder made of the clip, and of each frame."""
        steps = x.shape[1] - self.together + 1
        pictures = torch.cat([x[:, first : first + steps] for first in range(self.together)], dim=2)
        vectors = self.project(self.frame(pictures.flatten(0, 1)).pooled).unflatten(0, (-1, steps))
        real = any_or_all(x[:, self.together - 1 :].flatten(2).abs().amax(2) > 0)
        return self.time(vectors.transpose(1, 2).unsqueeze(1), real)

    def widths(self) -> list[Width]:
        """Those of both encoders, and of what the first hands to the second."""
        found = [width for name, part in self._parts().items() for width in prefixed(name, part.widths())]
        return found + passed_on("frame", self.frame, "project.weight")

    def pooled(self) -> Width | None:
        """That of the second encoder, where it has one."""
        return prefixed("time", [self.time.pooled()])[0] if hasattr(self.time, "pooled") else None

    def droppable(self) -> list[str]:
        """The blocks of both encoders."""
        return [f"{name}.{block}" for name, part in self._parts().items() for block in part.droppable()]

    def _parts(self) -> dict[str, Any]:
        """The two encoders, if they say what of them can go."""
        return {name: part for name, part in self.named_children() if hasattr(part, "widths")}
