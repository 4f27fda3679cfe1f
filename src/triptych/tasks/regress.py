"""Predict a number.

Head: an optional hidden layer, then one output in units of the target's standard deviation. Loss: mean squared error.
Quality: R², the share of the target's variance explained, written as a mean over rows so that it can be paired and resampled.
"""

from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.data.target import Target
from triptych.registry import register
from triptych.structure import Member, Settings, Width


@register("task", "regress")
class Regress(nn.Module):
    """One number from the fused vector."""

    class Config(Settings):
        """`mean` and `deviation` are those of the training targets; outputs are standardised by them."""

        mean: float = 0.0
        deviation: float = 1.0
        hidden: int = 0
        dropout: float = 0.0

    metric: ClassVar[str] = "r2"
    numbers: ClassVar[bool] = True

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.config = config
        self.dropout = nn.Dropout(config.dropout)
        self.hidden = nn.Linear(width, config.hidden) if config.hidden else None
        self.output = nn.Linear(config.hidden or width, 1)

    def forward(self, fused: Float[Tensor, "batch width"]) -> Float[Tensor, "batch 1"]:
        """The standardised number."""
        if self.hidden is not None:
            fused = F.relu(self.hidden(fused))
        return self.output(self.dropout(fused))

    def widths(self) -> list[Width]:
        """The hidden features, where there are any."""
        if self.hidden is None:
            return []
        made = (Member("hidden.weight", 0), Member("hidden.bias", 0))
        return [Width("hidden", self.hidden.out_features, made, (Member("output.weight", 1),))]

    def loss(self, outputs: Float[Tensor, "batch 1"], targets: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
        """Mean squared error in standardised units."""
        return F.mse_loss(outputs[:, 0], (targets - self.config.mean) / self.config.deviation)

    def scores(
        self, outputs: Float[np.ndarray, "rows 1"], targets: Float[np.ndarray, " rows"]
    ) -> Float64[np.ndarray, " rows"]:
        """1 - (y - ŷ)² / Var(y) a row, whose mean is R² on these rows."""
        error = (self._values(outputs) - targets) ** 2
        return 1.0 - error.astype(np.float64) / max(float(np.var(targets)), 1e-12)

    def soft_scores(
        self, outputs: Float[np.ndarray, "rows 1"], targets: Float[np.ndarray, " rows"]
    ) -> Float64[np.ndarray, " rows"]:
        """The scores themselves: an error has no ties that a coin could decide."""
        return self.scores(outputs, targets)

    def metrics(self, outputs: Float[np.ndarray, "rows 1"], targets: Float[np.ndarray, " rows"]) -> dict[str, float]:
        """R², mean absolute error and root mean squared error in the target's own unit."""
        error = self._values(outputs) - targets
        return {
            "r2": float(self.scores(outputs, targets).mean()),
            "mae": float(np.abs(error).mean()),
            "rmse": float(np.sqrt((error**2).mean())),
        }

    def answers(self, outputs: Float[np.ndarray, "rows 1"]) -> list[dict[str, Any]]:
        """The predicted number for each row."""
        return [{"answer": float(value)} for value in self._values(outputs)]

    def truth(self, label: Any) -> str:
        """The true number as text."""
        return f"{label:.6g}"

    def _values(self, outputs: Float[np.ndarray, "rows 1"]) -> Float[np.ndarray, " rows"]:
        return outputs[:, 0] * self.config.deviation + self.config.mean

    @staticmethod
    def fit(
        config: dict[str, Any],
        target: Target,  # noqa: ARG004 - one signature for every task
        targets: Float[np.ndarray, " rows"] | Int[np.ndarray, " rows"],
    ) -> dict[str, Any]:
        """The config completed from the training rows: the mean and standard deviation of the target."""
        return {**config, "mean": float(targets.mean()), "deviation": max(float(targets.std()), 1e-12)}
