"""How good made pictures are: what the tasks that draw have in common.

A caption leaves much open: where a thing is, how large. So a model draws several pictures, and a row is worth how well they stand for all
pictures that the real one might have been, by the energy score, a proper one: no other distribution of drawings is worth more on
average than the true one, neither its mean (the first term) nor one typical picture (the second).

    e(drawn, real) = mean_k |s(drawn_k) - s(real)| - 1/2 mean_{k != l} |s(drawn_k) - s(drawn_l)|
    score of a row = 1 - e / e(real pictures at random, real)

0 is what a model is worth that draws real pictures without reading; at 1 nothing was left open. s are the amplitudes of the Fourier
transform, which tell colour, form, size and sharpness wherever a thing lies, and not where it lies. Whether a picture is what was asked
for, a classifier that was trained on real ones must say.

Source: Gneiting & Raftery, Strictly Proper Scoring Rules, Prediction, and Estimation, JASA 2007, section 4.3.
"""

from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor, nn

from triptych.data.image import ImageFeatures
from triptych.data.target import Target

WHITE = 255.0
NEIGHBOURS = 64  # real pictures that each real picture is compared with


class Drawing(nn.Module):
    """What tasks that draw have in common: pictures from -1 to 1 as pixels, and against real ones.

    Args:
        picture: the state of the target's features.
    """

    metric: ClassVar[str] = "skill"
    forced: ClassVar[bool] = True
    numbers: ClassVar[bool] = True

    def __init__(self, picture: dict[str, Any]) -> None:
        super().__init__()
        self.shape = ImageFeatures.from_state(picture).shape.shape

    def scores(
        self,
        drawn: Float[np.ndarray, "rows drawings channels height width"],
        real: UInt8[np.ndarray, "rows channels height width"],
    ) -> Float64[np.ndarray, " rows"]:
        """The energy score of each row as a share of what reading nothing costs, taken from 1."""
        told = floats(torch.from_numpy(real))
        s = spectrum(told)
        turns = range(1, min(len(s) - 1, NEIGHBOURS) + 1)
        usual = sum(float((s - s.roll(turn, 0)).norm(dim=1).mean()) for turn in turns) / max(len(turns), 1) / 2
        return 1.0 - energy(torch.from_numpy(drawn).clamp(-1, 1), told).double().numpy() / max(usual, 1e-12)

    def soft_scores(
        self,
        drawn: Float[np.ndarray, "rows drawings channels height width"],
        real: UInt8[np.ndarray, "rows channels height width"],
    ) -> Float64[np.ndarray, " rows"]:
        """The scores themselves: an error has no ties that a coin could decide."""
        return self.scores(drawn, real)

    def metrics(
        self,
        drawn: Float[np.ndarray, "rows drawings channels height width"],
        real: UInt8[np.ndarray, "rows channels height width"],
    ) -> dict[str, float]:
        """The mean score."""
        return {"skill": float(self.scores(drawn, real).mean())}

    def pixels(
        self, drawn: Float[np.ndarray, "rows drawings channels height width"]
    ) -> UInt8[np.ndarray, "rows drawings height width 3"]:
        """The drawings as pictures in RGB."""
        whole = np.round((np.clip(drawn, -1, 1) + 1) * (WHITE / 2)).astype(np.uint8)
        return np.ascontiguousarray(np.broadcast_to(np.moveaxis(whole, 2, -1), (*whole.shape[:2], *whole.shape[3:], 3)))

    def answers(self, drawn: Float[np.ndarray, "rows drawings channels height width"]) -> list[dict[str, Any]]:
        """The drawings of each row, beside each other."""
        return [self._shown(row) for row in self.pixels(drawn)]

    def truth(self, label: Any) -> dict[str, Any]:
        """The real picture of a row of labels."""
        return self._shown(self.pixels(floats(torch.from_numpy(label))[None, None].numpy())[0])

    def _shown(self, pictures: UInt8[np.ndarray, "drawings height width 3"]) -> dict[str, Any]:
        count, height, width, _ = pictures.shape
        size = f"{width} x {height} pixels"
        return {"answer": size if count == 1 else f"{count} pictures of {size}", "picture": np.hstack(list(pictures))}

    @staticmethod
    def fit(config: dict[str, Any], target: Target, targets: np.ndarray) -> dict[str, Any]:  # noqa: ARG004 - one signature for every task
        """The config completed from the target: how large a picture is."""
        return {**config, "picture": target.picture.state()}


def floats(pixels: UInt8[Tensor, "*rows channels height width"]) -> Float[Tensor, "*rows channels height width"]:
    """Pixels from -1 to 1."""
    return pixels.float() / (WHITE / 2) - 1


def spectrum(pictures: Float[Tensor, "*rows channels height width"]) -> Float[Tensor, "*rows numbers"]:
    """The amplitudes of the Fourier transform of each channel, as long a vector as the picture is."""
    return torch.fft.fft2(pictures, norm="ortho").abs().flatten(-3)


def energy(
    drawn: Float[Tensor, "rows drawings channels height width"], real: Float[Tensor, "rows channels height width"]
) -> Float[Tensor, " rows"]:
    """The energy score of each row's drawings, the smaller the better."""
    s, count = spectrum(drawn), drawn.shape[1]
    apart = torch.cdist(s, s).sum((1, 2)) / max(count * (count - 1), 1)
    return (s - spectrum(real).unsqueeze(1)).norm(dim=2).mean(1) - apart / 2


def drawn_by(labels: Tensor) -> torch.Generator:
    """The same pictures draw the same noise, so that a teacher and its student, or a model before and after, are asked the same."""
    return torch.Generator().manual_seed(int(labels.sum(dtype=torch.int64)))
