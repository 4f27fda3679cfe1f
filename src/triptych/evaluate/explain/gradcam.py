"""Grad-CAM: which cells of a grid of features speak for an answer.

In words, with features A (channels k, cells c) and the output y that is asked about: Grad-CAM weighs the channels,
alpha_k = mean over c of dy / dA_kc, and the map is ReLU(sum_k alpha_k A_kc). HiResCAM gives every cell its own gradient,
ReLU(sum_k dy / dA_kc A_kc). On the last grid of a network that averages over it the two are the same; on any other, averaging the
gradient loses where it came from (`docs/decisions/0013-maps-that-can-be-checked.md` measures how much).

Source: Selvaraju et al., Grad-CAM, ICCV 2017, equations 1 and 2; Draelos and Carin, Use HiResCAM Instead of Grad-CAM for
Faithful Explanations of Convolutional Neural Networks, 2020.
"""

from typing import Literal

import torch
from captum.attr import LayerGradCam, LayerGradientXActivation
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from triptych.evaluate.explain.grids import Grid, tapped
from triptych.evaluate.explain.subject import Subject

Gradients = Literal["own", "mean"]  # of each cell (HiResCAM), or of its channel over all cells (Grad-CAM as published)

BLANKED = 0.2  # of the picture


def gradcam(
    subject: Subject, name: str, grid: Grid, gradients: Gradients = "own"
) -> Float[Tensor, "rows height width"]:
    """The map of each row; all zeros where nothing speaks for the answer, or the field is absent.

    Args:
        subject: the rows.
        name: a field of pictures or sounds.
        grid: of its encoder.
        gradients: "own" for HiResCAM, "mean" for Grad-CAM as published.
    """
    method = LayerGradCam if gradients == "mean" else LayerGradientXActivation
    with torch.enable_grad(), tapped(subject.model.encoders[name], grid) as tap:
        x = subject.batch.inputs[name].clone().requires_grad_()
        given = (subject.vectors, subject.batch.presence)
        found = method(subject.through(name), tap).attribute(x, target=subject.targets, additional_forward_args=given)
    return found.detach().sum(1).relu()


def enlarged(maps: Float[Tensor, "rows height width"], size: tuple[int, int]) -> Float[Tensor, "rows rise run"]:
    """Maps at the size of what they lie over, the largest value of each 1."""
    large = F.interpolate(maps.unsqueeze(1), size, mode="bicubic").squeeze(1).relu()
    return large / large.amax((1, 2), keepdim=True).clamp(min=1e-12)


@torch.no_grad()
def blanked(
    subject: Subject, name: str, maps: Float[Tensor, "rows height width"], share: float = BLANKED
) -> Float[Tensor, " rows"]:
    """The amount of each row with the brightest `share` of its map blanked out: set to the mean of the channel.

    A map that shows what the answer rests on costs more than one drawn at random.
    """
    x = subject.batch.inputs[name]
    bright = brightest(enlarged(maps, (x.shape[2], x.shape[3])), share).unsqueeze(1)
    hidden = torch.where(bright, x.mean((2, 3), keepdim=True), x)
    logits = subject.through(name)(hidden, subject.vectors, subject.batch.presence)
    return torch.from_numpy(subject.amounts(logits)).float()


def brightest(maps: Float[Tensor, "rows height width"], share: float) -> Bool[Tensor, "rows height width"]:
    """True at the `share` of the places with the largest values."""
    flat = maps.flatten(1)
    kept = flat.argsort(1, descending=True)[:, : max(1, round(share * flat.shape[1]))]
    return torch.zeros_like(flat, dtype=torch.bool).scatter(1, kept, value=True).view_as(maps)
