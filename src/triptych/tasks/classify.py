"""Choose one of a list of labels.

Head: an optional hidden layer, then one logit a class. Loss: cross-entropy with label smoothing (Szegedy et al. 2016, section 7)
and class weights. Quality: the share of rows answered rightly.
"""

import warnings
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.data.target import Target
from triptych.registry import register
from triptych.structure import Member, Settings, Width


def _softmax(logits: Float[np.ndarray, "rows classes"]) -> Float64[np.ndarray, "rows classes"]:
    odds = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


@register("task", "classify")
class Classify(nn.Module):
    """One logit a class from the fused vector."""

    class Config(Settings):
        """`class_weights="balanced"` weighs a class by the inverse of its share of the training rows."""

        labels: tuple[str, ...]
        hidden: int = 0
        dropout: float = 0.0
        label_smoothing: float = 0.0
        class_weights: Literal["balanced"] | tuple[float, ...] | None = None

    metric: ClassVar[str] = "accuracy"

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.config = config
        self.dropout = nn.Dropout(config.dropout)
        self.hidden = nn.Linear(width, config.hidden) if config.hidden else None
        self.output = nn.Linear(config.hidden or width, len(config.labels))
        weights = config.class_weights if isinstance(config.class_weights, tuple) else None
        self.weights = torch.tensor(weights) if weights else None

    def forward(self, fused: Float[Tensor, "batch width"]) -> Float[Tensor, "batch classes"]:
        """The logits."""
        if self.hidden is not None:
            fused = F.relu(self.hidden(fused))
        return self.output(self.dropout(fused))

    def widths(self) -> list[Width]:
        """The hidden features, where there are any."""
        if self.hidden is None:
            return []
        made = (Member("hidden.weight", 0), Member("hidden.bias", 0))
        return [Width("hidden", self.hidden.out_features, made, (Member("output.weight", 1),))]

    def loss(self, logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """Mean cross-entropy; with class weights, the weighted mean."""
        weights = None if self.weights is None else self.weights.to(logits)
        return F.cross_entropy(logits, labels, weights, label_smoothing=self.config.label_smoothing)

    def scores(
        self, logits: Float[np.ndarray, "rows classes"], labels: Int[np.ndarray, " rows"]
    ) -> Float64[np.ndarray, " rows"]:
        """1.0 where the likeliest class is the true one, else 0.0."""
        return (logits.argmax(1) == labels).astype(np.float64)

    def soft_scores(
        self, logits: Float[np.ndarray, "rows classes"], labels: Int[np.ndarray, " rows"]
    ) -> Float64[np.ndarray, " rows"]:
        """The probability given to the true class."""
        return _softmax(logits)[np.arange(len(labels)), labels]

    def metrics(self, logits: Float[np.ndarray, "rows classes"], labels: Int[np.ndarray, " rows"]) -> dict[str, float]:
        """Accuracy, the mean recall of the classes that are there, macro F1 and macro one-against-rest AUROC, these two by torchmetrics."""
        from torchmetrics.functional import classification as tm

        classes = len(self.config.labels)
        prediction, truth = torch.from_numpy(logits).softmax(1), torch.from_numpy(labels)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes that these rows do not hold: they count as 0
            f1 = tm.multiclass_f1_score(prediction, truth, classes, average="macro")
            auroc = tm.multiclass_auroc(prediction, truth, classes, average="macro")
        right = self.scores(logits, labels)
        recall = np.mean([right[labels == label].mean() for label in np.unique(labels)])
        found = {"accuracy": right.mean(), "recall": recall, "f1": f1, "auroc": auroc}
        return {name: float(value) for name, value in found.items()}

    def answers(self, logits: Float[np.ndarray, "rows classes"]) -> list[dict[str, Any]]:
        """For each row the likeliest label and its probability."""
        probabilities = _softmax(logits)
        best = probabilities.argmax(1)
        return [
            {"answer": self.config.labels[i], "probability": float(row[i])}
            for i, row in zip(best, probabilities, strict=True)
        ]

    def truth(self, label: Any) -> str:
        """The name of a label as the processor numbers it."""
        return self.config.labels[int(label)]

    @staticmethod
    def fit(
        config: dict[str, Any],
        target: Target,
        targets: Float[np.ndarray, " rows"] | Int[np.ndarray, " rows"],
    ) -> dict[str, Any]:
        """The config completed from the training rows: the label list, and numbers for balanced class weights."""
        filled = {**config, "labels": target.labels}
        if config.get("class_weights") == "balanced":
            counts = np.bincount(targets.astype(int), minlength=len(filled["labels"]))
            filled["class_weights"] = tuple(float(len(targets) / (len(counts) * max(count, 1))) for count in counts)
        return filled
