"""Say what things stand where in a picture.

Head: at every place p of a grid a logit for each class, and four numbers d for a box around the centre c_p of the place: its sides lie
exp(d) cells to the left of it, above, to the right and below. Assignment: a place within `radius` cells of a box's centre, and inside
the box, learns that box; the place that holds the centre always does; of several boxes the smallest. Loss: focal loss of the classes,
summed over places, plus one minus the generalised IoU of the boxes, both over the number of assigned places. Answers: boxes with at
least `threshold` of probability, after non-maximum suppression within each class. Quality: F1 of a row's answers, a hit being a box of
the right class with an IoU of 0.5 or more; `metrics` has COCO's average precision over all rows.

Sources: Tian et al., FCOS: Fully Convolutional One-Stage Object Detection, ICCV 2019, sections 3.1 and 3.3 (one level, no centre-ness:
places far from the centre are not assigned, as in its centre sampling); Lin et al., Focal Loss for Dense Object Detection, ICCV 2017,
equation 5; Rezatofighi et al., Generalized Intersection over Union, CVPR 2019.
"""

import math
from collections import Counter
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.data.target import Target
from triptych.errors import InputError
from triptych.registry import register
from triptych.structure import Member, Settings, Width
from triptych.tasks.average_precision import average_precision, matched, pairwise_iou, row_precision
from triptych.tasks.places import on_grid

PRIOR = 0.01  # probability of a thing at a place before training (focal loss, section 4.1)
LONGEST = 5.0  # of d: no side lies further than exp(5) cells away
CANDIDATES = 300  # boxes of a row that suppression looks at

Found = Float32[np.ndarray, "rows most 6"]  # class (-1 behind the last), probability, corners as shares of the sides
Told = Float32[np.ndarray, "rows boxes 5"]  # class (-1 behind the last), corners


class Assigned(NamedTuple):
    """What each place learns: the class of its box, -1 for none, and the corners of that box."""

    labels: Int[Tensor, "batch places"]
    corners: Float[Tensor, "batch places 4"]


@register("task", "detect")
class Detect(nn.Module):
    """Boxes with classes."""

    class Config(Settings):
        """What the data says is filled in by `fit`: labels, and height and width of pictures."""

        labels: tuple[str, ...] = ()
        picture: tuple[int, int] = (1, 1)
        hidden: int = Field(0, ge=0, description="width of a layer before the outputs; 0 for none")
        dropout: float = Field(0.0, ge=0, lt=1)
        radius: float = Field(1.5, gt=0, description="cells around a centre that learn its box")
        focus: float = Field(2.0, ge=0, description="gamma of the focal loss")
        balance: float = Field(0.25, gt=0, lt=1, description="alpha of the focal loss")
        threshold: float = Field(0.3, ge=0, le=1, description="least probability of an answer")
        overlap: float = Field(0.5, gt=0, le=1, description="IoU from which the less probable of two boxes is left out")
        most: PositiveInt = 100

    metric: ClassVar[str] = "f1"
    reads: ClassVar[Literal["tokens"]] = "tokens"

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.config = config
        self.classes = len(config.labels)
        self.dropout = nn.Dropout(config.dropout)
        self.hidden = nn.Linear(width, config.hidden) if config.hidden else None
        self.output = nn.Linear(config.hidden or width, self.classes + 4)
        with torch.no_grad():
            self.output.bias[: self.classes] = -math.log((1 - PRIOR) / PRIOR)
            self.output.bias[self.classes :] = 0.0

    def forward(
        self,
        memory: Float[Tensor, "batch places width"],
        mask: Bool[Tensor, "batch places"],  # noqa: ARG002 - all are real
    ) -> Float[Tensor, "batch down across outputs"]:
        """At each place the logits of the classes, then d."""
        if self.hidden is not None:
            memory = F.relu(self.hidden(memory))
        return on_grid(self.output(self.dropout(memory)), self.config.picture)

    def widths(self) -> list[Width]:
        """The hidden features, where there are any."""
        if self.hidden is None:
            return []
        made = (Member("hidden.weight", 0), Member("hidden.bias", 0))
        return [Width("hidden", self.hidden.out_features, made, (Member("output.weight", 1),))]

    def loss(
        self, outputs: Float[Tensor, "batch down across outputs"], labels: Float[Tensor, "batch boxes 5"]
    ) -> Float[Tensor, ""]:
        """Focal loss and one minus the generalised IoU, over the number of places that have a box."""
        rows, columns = outputs.shape[1:3]
        learned = assign(labels, rows, columns, self.config.radius)
        logits = outputs[..., : self.classes].flatten(1, 2)
        there = learned.labels >= 0
        truth = F.one_hot(learned.labels.clamp(min=0), self.classes).to(logits) * there.unsqueeze(-1)
        chance = torch.where(truth > 0, logits, -logits).sigmoid()
        weight = torch.where(truth > 0, self.config.balance, 1 - self.config.balance)
        focal = (weight * (1 - chance) ** self.config.focus * F.softplus(torch.where(truth > 0, -logits, logits))).sum()
        boxes = corners(outputs[..., self.classes :])[there]
        return (focal + (1 - generalised_iou(boxes, learned.corners[there])).sum()) / there.sum().clamp(min=1)

    def divergence(
        self, outputs: Float[Tensor, "*places outputs"], reference: Float[Tensor, "*places outputs"]
    ) -> Float[Tensor, ""]:
        """How far outputs lie from those of a reference, in nats a thing: KL of every class at every place, and the change of d where
        the reference sees something, over the number of things that it sees.
        """
        ours, theirs = outputs[..., : self.classes], reference[..., : self.classes].detach()
        p = theirs.sigmoid()
        divergence = p * (F.logsigmoid(theirs) - F.logsigmoid(ours))
        divergence = divergence + (1 - p) * (F.logsigmoid(-theirs) - F.logsigmoid(-ours))
        seen = p.amax(-1)
        change = (outputs[..., self.classes :] - reference[..., self.classes :].detach()).abs().mean(-1)
        return (divergence.sum() + (seen * change).sum()) / seen.sum().clamp(min=1)

    def settle(self, outputs: Float[np.ndarray, "batch down across outputs"]) -> Found:
        """The boxes of each row, the most probable first: what is left of its places after suppression."""
        chances = torch.from_numpy(outputs[..., : self.classes]).sigmoid().flatten(1, 2).numpy()
        placed = corners(torch.from_numpy(outputs[..., self.classes :])).numpy()
        found = np.zeros((len(outputs), self.config.most, 6), dtype=np.float32)
        found[..., 0] = -1
        for row, (chance, boxes) in enumerate(zip(chances, placed, strict=True)):
            best = np.argsort(-chance, axis=None, kind="stable")[:CANDIDATES]
            places, classes = np.divmod(best, self.classes)
            kept = suppressed(boxes[places], classes, self.config.overlap)[: self.config.most]
            found[row, : len(kept), 0] = classes[kept]
            found[row, : len(kept), 1] = chance.ravel()[best[kept]]
            found[row, : len(kept), 2:] = boxes[places[kept]].clip(0, 1)
        return found

    def scores(self, found: Found, labels: Told) -> Float64[np.ndarray, " rows"]:
        """F1 of the answers of each row: 2 hits / (answers + things); 1 where there are neither."""
        scores = np.ones(len(labels))
        for row, (ours, theirs) in enumerate(zip(found, labels, strict=True)):
            answered = ours[(ours[:, 0] >= 0) & (ours[:, 1] >= self.config.threshold)]
            things = theirs[theirs[:, 0] >= 0]
            if len(answered) + len(things):
                scores[row] = 2 * matched(answered, things).sum() / (len(answered) + len(things))
        return scores

    def soft_scores(self, found: Found, labels: Told) -> Float64[np.ndarray, " rows"]:
        """Average precision within each row, for which no threshold decides what is answered."""
        return np.array([row_precision(o[o[:, 0] >= 0], t[t[:, 0] >= 0]) for o, t in zip(found, labels, strict=True)])

    def metrics(self, found: Found, labels: Told) -> dict[str, float]:
        """F1 and COCO's average precision at an IoU of 0.5, for each class too, and averaged over IoUs from 0.5 to 0.95."""
        return {"f1": float(self.scores(found, labels).mean()), **average_precision(found, labels, self.config.labels)}

    def answers(self, found: Found) -> list[dict[str, Any]]:
        """How many things of each class, and their boxes: corners as shares of the sides of what is seen of the picture."""
        return [{"answer": self.truth(row), "boxes": self.listed(row)} for row in found]

    def truth(self, label: Any) -> str:
        """How many things of each class a row of labels, or of boxes found, has."""
        counts = Counter(box["label"] for box in self.listed(label))
        return ", ".join(f"{counts[label]} {label}" for label in self.config.labels if label in counts) or "nothing"

    def listed(self, row: Float32[np.ndarray, "boxes columns"]) -> list[dict[str, Any]]:
        """The boxes of a row of labels, or those of the boxes found that are probable enough to be answers."""
        found = row.shape[1] == 6
        kept = row[(row[:, 0] >= 0) & (not found or row[:, 1] >= self.config.threshold)]
        return [
            {"label": self.config.labels[int(one[0])], "box": list(map(float, one[-4:]))}
            | ({"probability": float(one[1])} if found else {})
            for one in kept
        ]

    @staticmethod
    def fit(config: dict[str, Any], target: Target, targets: Told) -> dict[str, Any]:  # noqa: ARG004 - one signature for every task
        """The config completed from the target: labels and the size of pictures."""
        if target.overlay is None or target.kind != "boxes":
            raise InputError(
                f"The task detect learns boxes, but the target {target.name} is a {target.kind}.",
                f"Say `{target.name}: boxes:target`, or choose another task.",
            )
        return {**config, "labels": target.labels, "picture": target.overlay.frame.size}


def centres(rows: int, columns: int) -> Float[Tensor, "places 2"]:
    """The middle, x and y, of each cell, as shares of the sides."""
    y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1)


def corners(d: Float[Tensor, "batch down across 4"]) -> Float[Tensor, "batch places 4"]:
    """The boxes that d says, as shares of the sides."""
    rows, columns = d.shape[1:3]
    away = d.clamp(max=LONGEST).exp() * torch.tensor([-1.0, -1.0, 1.0, 1.0], device=d.device)
    cell = torch.tensor([1 / columns, 1 / rows] * 2, device=d.device)
    return (away * cell).flatten(1, 2) + centres(rows, columns).to(d).repeat(1, 2)


def assign(boxes: Float[Tensor, "batch boxes 5"], rows: int, columns: int, radius: float) -> Assigned:
    """The box that each place of a grid learns: the smallest of those whose centre is near enough and that hold the place."""
    places = centres(rows, columns).to(boxes)
    cell = torch.tensor([1 / columns, 1 / rows], device=boxes.device)
    low, high = boxes[:, :, None, 1:3], boxes[:, :, None, 3:5]
    middle = (low + high) / 2
    away = ((places - middle) / cell).abs().amax(-1)
    inside = ((places > low) & (places < high)).all(-1)
    holds = (inside & (away < radius)) | (away <= 0.5)
    area = (high - low).prod(-1)
    area = torch.where(holds & (boxes[:, :, None, 0] >= 0), area, torch.inf)
    least, which = area.min(1)
    chosen = boxes.gather(1, which.unsqueeze(-1).expand(-1, -1, 5))
    return Assigned(torch.where(least.isfinite(), chosen[..., 0], -1).long(), chosen[..., 1:])


def generalised_iou(a: Float[Tensor, "boxes 4"], b: Float[Tensor, "boxes 4"]) -> Float[Tensor, " boxes"]:
    """IoU of each pair, less the share of the smallest box around both that neither covers."""
    both = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(-1)
    around = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(-1).clamp(min=1e-12)
    either = ((a[:, 2:] - a[:, :2]).prod(-1) + (b[:, 2:] - b[:, :2]).prod(-1) - both).clamp(min=1e-12)
    return both / either - (around - either) / around


def suppressed(
    boxes: Float32[np.ndarray, "boxes 4"], classes: Int[np.ndarray, " boxes"], overlap: float
) -> Int[np.ndarray, " kept"]:
    """The boxes that stay, of boxes in order of their probability: none overlaps a better one of its class by more than `overlap`."""
    close = (pairwise_iou(boxes, boxes) > overlap) & (classes[:, None] == classes)
    kept: list[int] = []
    for i in range(len(boxes)):
        if not close[i, kept].any():
            kept.append(i)
    return np.array(kept, dtype=np.int64)
