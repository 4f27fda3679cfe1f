"""Draw it: pictures from the fused vector and a little noise, by a conditional variational autoencoder.

    z ~ q(z | picture, fused)          in training: what the caption does not say, such as where a thing is
    z ~ p(z | fused)                   afterwards; both are normal distributions
    picture = decoder(fused, z)
    loss = |picture - drawn|² / 2 deviation² + KL(q || p), a number of the picture, + weight x energy score of what p draws

The prior reads the caption, for z tells what the caption says too: with a fixed prior colours were right in training and drawn at random
afterwards. It also reaches places where training put no picture, and the decoder drew shreds there; so a quarter of the rows is drawn in
training as it will be afterwards, and the last term (see `picturing`) judges that.

The decoder is asked for each patch of pixels by where it lies: layers of a place alone, then of its neighbours, each scaled and shifted by
the fused vector and z. All of them are convolutions and linear layers, for which there are integer kernels.

A finished model draws `drawings` pictures from noise of its seed, the same for every row; the posterior has done its work and is taken out.
What heals a compressed model is then that it draws what the original draws from the same noise, and the energy score.

Source: Sohn et al., Learning Structured Output Representation using Deep Conditional Generative Models, NeurIPS 2015, section 4.1; asked
by place: Watters et al., Spatial Broadcast Decoder, 2019; scaled and shifted: Perez et al., FiLM, AAAI 2018.
"""

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, UInt8
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.encoders.cnn import ConvNorm
from triptych.errors import InputError
from triptych.registry import register
from triptych.structure import Member, Settings, Width
from triptych.tasks.picturing import Drawing, drawn_by, energy, floats

SEEN = (32, 64, 64)  # channels of the posterior, halving by halving
SHARE = 4  # one row of so many is drawn from the prior in training too


class Posterior(nn.Module):
    """Mean and log-variance of what a picture holds beside its caption."""

    def __init__(self, shape: tuple[int, ...], fused: int, hidden: int, latent: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.stages = nn.ModuleList(ConvNorm(a, b, 3, stride=2, axes=2) for a, b in pairwise((channels, *SEEN)))
        cells = -(-height // 2 ** len(SEEN)) * -(-width // 2 ** len(SEEN))
        read = SEEN[-1] * cells + fused
        self.output = nn.Sequential(nn.Linear(read, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent))

    def forward(self, x: Float[Tensor, "batch channels rows columns"], fused: Tensor) -> tuple[Tensor, Tensor]:
        """Both, "batch latent"."""
        for stage in self.stages:
            x = stage(x).relu()
        return normal(self.output(torch.cat([x.flatten(1), fused], dim=1)))


class Modulated(nn.Module):
    """ReLU((1 + a) norm(conv(x)) + b), with a and b from a vector."""

    def __init__(self, inputs: int, outputs: int, kernel: int, style: int) -> None:
        super().__init__()
        self.layer = ConvNorm(inputs, outputs, kernel, stride=1, axes=2)
        self.film = nn.Linear(style, 2 * outputs)

    def forward(self, x: Float[Tensor, "batch inputs rows columns"], style: Tensor) -> Tensor:
        """The channels, "batch outputs rows columns"."""
        scale, shift = self.film(style)[..., None, None].chunk(2, dim=1)
        return (self.layer(x) * (1 + scale) + shift).relu()


@register("task", "draw")
class Draw(Drawing):
    """Pictures from the fused vector."""

    class Config(Settings):
        """`kernels` are those of the decoder's layers, each of `channels`, before patches of `patch` x `patch` pixels are drawn; `hidden`
        and `style` features of caption and noise steer them. `deviation` is by how much a pixel from -1 to 1 may be off: with a smaller
        one z tells more, and p meets q less well. `energy` is the weight of the energy score.
        """

        picture: dict[str, Any] = {}
        latent: PositiveInt = 12
        hidden: PositiveInt = 128
        style: PositiveInt = 96
        channels: PositiveInt = 48
        kernels: tuple[PositiveInt, ...] = Field((1, 1, 1, 3, 3), min_length=1)
        patch: PositiveInt = 2
        deviation: PositiveFloat = 0.3
        energy: float = Field(1.0, ge=0)
        drawings: PositiveInt = 4
        seed: int = 0
        posterior: bool = True

    def __init__(self, config: Config, width: int) -> None:
        super().__init__(config.picture)
        self.config = config
        channels, *sides = self.shape
        if any(side % config.patch for side in sides):
            raise InputError(
                f"A picture of {sides[1]} x {sides[0]} cannot be cut into patches of {config.patch} x {config.patch}.",
                "Choose a `size` of the target that can, or another `patch`.",
            )
        if any(kernel % 2 == 0 for kernel in config.kernels):
            raise InputError(
                f"Kernels of {', '.join(map(str, config.kernels))} have no middle.", "Choose odd `kernels`."
            )
        self.prior = nn.Linear(width, 2 * config.latent)
        first = nn.Linear(width + config.latent, config.hidden)
        self.style = nn.Sequential(first, nn.ReLU(), nn.Linear(config.hidden, config.style), nn.ReLU())
        reads = 2, *[config.channels] * (len(config.kernels) - 1)
        self.stages = nn.ModuleList(
            Modulated(inputs, config.channels, kernel, config.style)
            for inputs, kernel in zip(reads, config.kernels, strict=True)
        )
        self.output = nn.Conv2d(config.channels, channels * config.patch**2, 3, padding=1)
        self.posterior = Posterior(self.shape, width, config.hidden, config.latent) if config.posterior else None
        ways = [torch.linspace(-1, 1, side // config.patch) for side in sides]
        self.places = torch.stack(torch.meshgrid(*ways, indexing="ij")).unsqueeze(0)
        self.seed(config.seed)

    def seed(self, seed: int) -> None:
        """Draw other noise, which all rows share."""
        shape = self.config.drawings, self.config.latent
        self.noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def forward(
        self, fused: Float[Tensor, "batch width"], labels: UInt8[Tensor, "batch channels rows columns"] | None = None
    ) -> Float[Tensor, "batch drawings channels rows columns"] | Float[Tensor, "batch numbers"]:
        """The drawings. With labels, those of noise that is each row's own; while there is a posterior, one drawing from it, flat,
        and behind it KL(q || p) and the energy score of some rows.
        """
        if labels is None:
            return self._drawn(fused, self.noise.to(fused).expand(fused.shape[0], -1, -1))
        generator = drawn_by(labels)
        if self.posterior is None:
            return self._drawn(fused, torch.randn(len(fused), *self.noise.shape, generator=generator).to(fused))
        mean, logarithm = normal(self.prior(fused))
        there, spread = self.posterior(floats(labels), fused)
        noise = torch.randn(there.shape, generator=generator).to(there)
        drawn = self._decoded(fused, there + (spread / 2).exp() * noise)
        apart = ((there - mean).square() + spread.exp()) / logarithm.exp() - 1 + logarithm - spread
        some = fused[::SHARE]
        noise = torch.randn(len(some), *self.noise.shape, generator=generator).to(some)
        score = energy(self._drawn(some, noise), floats(labels[::SHARE])).mean().expand(len(fused), 1)
        return torch.cat([drawn.flatten(1), apart.sum(1, keepdim=True) / 2, score], dim=1)

    def _drawn(self, fused: Tensor, noise: Float[Tensor, "batch drawings latent"]) -> Tensor:
        """What the prior draws, "batch drawings channels rows columns"."""
        mean, logarithm = normal(self.prior(fused))
        z = mean.unsqueeze(1) + (logarithm / 2).exp().unsqueeze(1) * noise
        asked = fused.unsqueeze(1).expand(-1, self.config.drawings, -1)
        return self._decoded(asked.flatten(0, 1), z.flatten(0, 1)).unflatten(0, (-1, self.config.drawings))

    def _decoded(self, fused: Tensor, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch channels rows columns"]:
        style = self.style(torch.cat([fused, z], dim=1))
        x = self.places.to(fused).expand(fused.shape[0], -1, -1, -1)
        for stage in self.stages:
            x = stage(x, style)
        return F.pixel_shuffle(self.output(x), self.config.patch)

    def loss(
        self,
        outputs: Float[Tensor, "batch drawings channels rows columns"] | Float[Tensor, "batch numbers"],
        labels: UInt8[Tensor, "batch channels rows columns"],
    ) -> Float[Tensor, ""]:
        """The sum of the three terms; without a posterior, the energy score."""
        told = floats(labels)
        if outputs.ndim == told.ndim + 1:
            return energy(outputs, told).mean()
        drawn, apart, score = outputs.split([told[0].numel(), 1, 1], dim=1)
        error = (drawn - told.flatten(1)).square().mean() / (2 * self.config.deviation**2)
        return error + apart.mean() / told[0].numel() + self.config.energy * score.mean()

    def finish(self) -> dict[str, Any]:
        """Take the posterior out after training; what the config has to say of it."""
        self.posterior = None
        return {"posterior": False}

    def widths(self) -> list[Width]:
        """The channels of each stage, and the features that steer them."""
        films = tuple(Member(f"stages.{n}.film.weight", 1) for n in range(len(self.stages)))
        steering = [
            Width(f"style.{n}", rows, (Member(f"style.{n}.weight", 0), Member(f"style.{n}.bias", 0)), read)
            for n, read in ((0, (Member("style.2.weight", 1),)), (2, films))
            for rows in self.get_parameter(f"style.{n}.weight").shape[:1]
        ]
        readers = [*(f"stages.{n}.layer.conv.weight" for n in range(1, len(self.stages))), "output.weight"]
        for n, (stage, reader) in enumerate(zip(self.stages, readers, strict=True)):
            film = (Member(f"stages.{n}.film.{part}", 0, repeat=2) for part in ("weight", "bias"))
            made = *stage.layer.producers(f"stages.{n}.layer"), *film  # type: ignore[operator, union-attr]
            steering.append(Width(f"stages.{n}", self.get_parameter(reader).shape[1], made, (Member(reader, 1),)))
        return steering


def normal(numbers: Float[Tensor, "batch numbers"]) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of a normal distribution, each "batch latent"."""
    mean, logarithm = numbers.chunk(2, dim=1)
    return mean, logarithm.clamp(-10, 10)
