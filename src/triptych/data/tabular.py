"""Category and number cells."""

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from triptych.errors import InputError
from triptych.structure import Features, Modality, Settings


class CategoryFeatures:
    """What a category cell becomes: one id. 0 is a category that training did not show, or showed too rarely.

    Args:
        config: how rare a category may be.
        categories: made by `fit`; their ids start at 1.
    """

    class Config(Settings):
        """Which categories get an id of their own."""

        at_least: int = Field(2, ge=1, description="rows; rarer categories share id 0, so that it is trained too")
        most: int = Field(10_000, ge=1, description="the most frequent ones")

    kind: ClassVar[Modality] = "category"

    def __init__(self, config: Config, categories: tuple[str, ...] = ()) -> None:
        self.config = config
        self.categories = categories
        self._ids = {category: place for place, category in enumerate(categories, 1)}

    def fit(self, cells: Iterable[Any], root: Path = Path(), where: str = "the training table") -> "CategoryFeatures":  # noqa: ARG002 - one signature for every kind
        """List the categories, sorted."""
        counts = Counter(str(cell) for cell in cells)
        ranked = sorted((c for c in counts if counts[c] >= self.config.at_least), key=lambda c: (-counts[c], c))
        return type(self)(self.config, tuple(sorted(ranked[: self.config.most])))

    def load(self, cell: Any, root: Path, where: str) -> Int64[Tensor, " 1"]:  # noqa: ARG002 - one signature for every kind
        """The id of one cell."""
        return torch.tensor([self._ids.get(str(cell), 0)])

    def features(
        self,
        stack: Int64[Tensor, "batch 1"],
        augment: bool = False,  # noqa: ARG002 - one signature for every kind
        generator: torch.Generator | None = None,  # noqa: ARG002 - as above
    ) -> Int64[Tensor, "batch 1"]:
        """The ids."""
        return stack

    @property
    def shape(self) -> Features:
        """What an encoder reads."""
        return Features(kind="category", shape=(1,), vocabulary=len(self.categories) + 1)

    def absent(self) -> Int64[Tensor, " 1"]:
        """Stands in for a missing cell, beside a presence of False."""
        return torch.zeros(1, dtype=torch.int64)

    def state(self) -> dict[str, Any]:
        """Everything `from_state` needs, ready for JSON."""
        return {"config": self.config.model_dump(mode="json"), "categories": list(self.categories)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "CategoryFeatures":
        """The features that `state` came from."""
        return cls(cls.Config(**state["config"]), tuple(state["categories"]))


class NumberFeatures:
    """What a number cell becomes: one standardised float.

    Args:
        config: the scale.
        mean: of the training cells, made by `fit`.
        std: their standard deviation.
    """

    class Config(Settings):
        """The scale on which numbers are read."""

        scale: Literal["standard", "log", "none"] = Field(
            "standard",
            description="mean 0 and deviation 1; the same after sign(x) log(1 + |x|), for skewed data; or as they are",
        )

    kind: ClassVar[Modality] = "number"

    def __init__(self, config: Config, mean: float = 0.0, std: float = 1.0) -> None:
        self.config = config
        self.mean, self.std = mean, std

    def fit(self, cells: Iterable[Any], root: Path = Path(), where: str = "the training table") -> "NumberFeatures":  # noqa: ARG002 - one signature for every kind
        """Mean and deviation of these numbers."""
        values = [self._scaled(parse_number(cell, where)) for cell in cells]
        if self.config.scale == "none" or not values:
            return type(self)(self.config)
        mean = math.fsum(values) / len(values)
        std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
        return type(self)(self.config, mean, std if std > 1e-12 * max(abs(mean), 1e-12) else 1.0)

    def load(self, cell: Any, root: Path, where: str) -> Float[Tensor, " 1"]:  # noqa: ARG002 - one signature for every kind
        """One number, standardised before it becomes a float32, which would lose the digits behind a large mean.

        Raises:
            InputError: not a number, or not a finite one.
        """
        return torch.tensor([(self._scaled(parse_number(cell, where)) - self.mean) / self.std], dtype=torch.float32)

    def features(
        self,
        stack: Float[Tensor, "batch 1"],
        augment: bool = False,  # noqa: ARG002 - one signature for every kind
        generator: torch.Generator | None = None,  # noqa: ARG002 - as above
    ) -> Float[Tensor, "batch 1"]:
        """The numbers."""
        return stack

    @property
    def shape(self) -> Features:
        """What an encoder reads."""
        return Features(kind="number", shape=(1,))

    def absent(self) -> Float[Tensor, " 1"]:
        """Stands in for a missing cell, beside a presence of False."""
        return torch.zeros(1)

    def state(self) -> dict[str, Any]:
        """Everything `from_state` needs, ready for JSON."""
        return {"config": self.config.model_dump(mode="json"), "mean": self.mean, "std": self.std}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "NumberFeatures":
        """The features that `state` came from."""
        return cls(cls.Config(**state["config"]), state["mean"], state["std"])

    def _scaled(self, value: float) -> float:
        return math.copysign(math.log1p(abs(value)), value) if self.config.scale == "log" else value


def parse_number(cell: Any, where: str) -> float:
    """A cell as a finite number.

    Raises:
        InputError: not a number, NaN or infinite; `where` names the place.
    """
    try:
        value = float(cell)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{where}: {cell!r:.60} is not a number.", "Mend the cell, or the column's kind.") from None
    if not math.isfinite(value):
        raise InputError(f"{where}: {cell} is not a finite number.", "Leave the cell empty if the value is not known.")
    return value
