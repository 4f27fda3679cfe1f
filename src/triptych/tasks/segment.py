"""Say for every pixel of a picture what it shows.

Head: one linear layer from the token of a place to a logit a class. Loss: cross-entropy over the pixels of the grid, with class weights
1 / ln(1.02 + share) (ENet), plus `dice` times the mean over classes of 1 - 2 sum p t / (sum p + sum t) (V-Net). Answers: logits enlarged
to the size of the masks, bilinearly, and the likeliest class of each pixel. Quality: intersection over union, a row at a time, averaged
over the classes that its mask holds; `metrics` has the usual one, over the pixels of all rows together.

Sources: Long et al., Fully Convolutional Networks for Semantic Segmentation, CVPR 2015; Paszke et al., ENet, arXiv 1606.02147, section
5.2; Milletari et al., V-Net, 3DV 2016, equation 3.
"""

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, UInt8
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.data.frame import VOID
from triptych.data.target import Target
from triptych.errors import InputError
from triptych.registry import register
from triptych.structure import Settings, Width
from triptych.tasks.places import on_grid

Masks = UInt8[np.ndarray, "rows height width"]


@register("task", "segment")
class Segment(nn.Module):
    """A class for every pixel."""

    class Config(Settings):
        """What the data says is filled in by `fit`: labels, height and width of pictures and of masks."""

        labels: tuple[str, ...] = ()
        picture: tuple[int, int] = (1, 1)
        size: tuple[int, int] = (1, 1)
        class_weights: Literal["balanced"] | tuple[float, ...] | None = None
        dice: float = Field(0.0, ge=0)
        dropout: float = Field(0.0, ge=0, lt=1)

    metric: ClassVar[str] = "iou"
    reads: ClassVar[Literal["tokens"]] = "tokens"

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.config = config
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(width, len(config.labels))
        weights = config.class_weights if isinstance(config.class_weights, tuple) else None
        self.weights = torch.tensor(weights) if weights else None

    def forward(
        self,
        memory: Float[Tensor, "batch places width"],
        mask: Bool[Tensor, "batch places"],  # noqa: ARG002 - all are real
    ) -> Float[Tensor, "batch down across classes"]:
        """The logits of each place."""
        return on_grid(self.output(self.dropout(memory)), self.config.picture)

    def widths(self) -> list[Width]:
        """None: what the head reads is the projectors'."""
        return []

    def loss(
        self, logits: Float[Tensor, "batch down across classes"], labels: UInt8[Tensor, "batch height width"]
    ) -> Float[Tensor, ""]:
        """Weighted mean cross-entropy over the pixels that are not void, plus `dice` times the dice loss."""
        told = F.interpolate(labels.unsqueeze(1).float(), logits.shape[1:3], mode="nearest-exact")[:, 0].long()
        flat, told = logits.flatten(0, 2), told.flatten()
        weights = None if self.weights is None else self.weights.to(logits)
        loss = F.cross_entropy(flat, told, weights, ignore_index=VOID, reduction="sum")
        known = told[told != VOID]
        loss = loss / (torch.tensor(len(known)) if weights is None else weights[known].sum()).clamp(min=1e-12)
        return loss + self.config.dice * dice_loss(flat[told != VOID], known) if self.config.dice else loss

    def settle(self, logits: Float[np.ndarray, "batch down across classes"]) -> Masks:
        """The mask of each picture at full size: all that is kept of a batch, for a data set's logits fill the memory."""
        moved = torch.from_numpy(logits).movedim(-1, 1)
        enlarged = F.interpolate(moved, self.config.size, mode="bilinear", align_corners=False)
        return enlarged.argmax(1).to(torch.uint8).numpy()

    def scores(self, masks: Masks, labels: Masks) -> Float64[np.ndarray, " rows"]:
        """Intersection over union of each row, the mean over the classes of its true mask; 1 where all of that is void."""
        counts = confusions(masks, labels, len(self.config.labels))
        there = counts.sum(2) > 0
        hits = np.diagonal(counts, axis1=1, axis2=2)
        iou = hits / np.maximum(counts.sum(1) + counts.sum(2) - hits, 1)
        return np.where(there.any(1), (iou * there).sum(1) / np.maximum(there.sum(1), 1), 1.0)

    def soft_scores(self, masks: Masks, labels: Masks) -> Float64[np.ndarray, " rows"]:
        """The scores themselves: among thousands of pixels a tossed coin does not tell."""
        return self.scores(masks, labels)

    def metrics(self, masks: Masks, labels: Masks) -> dict[str, float]:
        """Mean IoU over classes, pixel accuracy, and the IoU of each class, by torchmetrics, over the pixels of all rows together."""
        from torchmetrics.functional import classification as tm

        said, told = torch.from_numpy(masks).long(), torch.from_numpy(labels).long()
        classes = len(self.config.labels)
        iou = tm.multiclass_jaccard_index(said, told, classes, average="none", ignore_index=VOID)
        accuracy = tm.multiclass_accuracy(said, told, classes, average="micro", ignore_index=VOID)
        there = torch.from_numpy(np.isin(np.arange(classes), labels))
        found = {"iou": float(self.scores(masks, labels).mean()), "miou": float(iou[there].mean())}
        found["pixel_accuracy"] = float(accuracy)
        return found | {f"iou {label}": float(iou[i]) for i, label in enumerate(self.config.labels) if there[i]}

    def answers(self, masks: Masks) -> list[dict[str, Any]]:
        """What each picture shows, and on how much of it."""
        return [{"answer": self.truth(mask)} for mask in masks]

    def truth(self, label: Any) -> str:
        """The classes of a mask and their shares of its pixels, the largest first."""
        counts = np.bincount(label.ravel(), minlength=VOID + 1)[: len(self.config.labels)]
        shares = [(counts[i] / max(counts.sum(), 1), self.config.labels[i]) for i in np.argsort(-counts, kind="stable")]
        return ", ".join(f"{label} {share:.0%}" for share, label in shares if share >= 0.005) or "nothing"

    @staticmethod
    def fit(config: dict[str, Any], target: Target, targets: Masks) -> dict[str, Any]:
        """The config completed from the training masks: labels, sizes, and numbers for balanced class weights."""
        if target.overlay is None or target.kind != "mask":
            raise InputError(
                f"The task segment learns masks, but the target {target.name} is a {target.kind}.",
                f"Say `{target.name}: mask:target`, or choose another task.",
            )
        sizes = {"picture": target.overlay.frame.size, "size": target.overlay.size}
        filled = {**config, "labels": target.labels, **sizes}
        if config.get("class_weights") == "balanced":
            counts = np.bincount(targets.ravel(), minlength=VOID + 1)[: len(target.labels)]
            filled["class_weights"] = tuple(float(1 / np.log(1.02 + share)) for share in counts / max(counts.sum(), 1))
        return filled


def dice_loss(logits: Float[Tensor, "pixels classes"], labels: Int64[Tensor, " pixels"]) -> Float[Tensor, ""]:
    """1 - 2 sum p t / (sum p + sum t), the mean over the classes that are there."""
    p, t = logits.softmax(1), F.one_hot(labels, logits.shape[1]).to(logits)
    overlap = 2 * (p * t).sum(0) / (p.sum(0) + t.sum(0)).clamp(min=1e-12)
    there = t.sum(0) > 0
    return 1 - (overlap * there).sum() / there.sum().clamp(min=1)


def confusions(masks: Masks, labels: Masks, classes: int) -> Int64[np.ndarray, "rows told said"]:
    """How many pixels of each true class were said to be of each class, a row at a time; void is not counted."""
    found = np.empty((len(labels), classes, classes), dtype=np.int64)
    for row, (said, told) in enumerate(zip(masks, labels, strict=True)):
        known = told != VOID
        pairs = told[known].astype(np.int64) * classes + said[known]
        found[row] = np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    return found
