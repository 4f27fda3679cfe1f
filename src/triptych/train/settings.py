"""How a model is trained: the `train` part of a recipe."""

from typing import Literal

from pydantic import Field, model_validator

from triptych.structure import Settings


class OptimizerSettings(Settings):
    """SGD with momentum, Adam (Kingma & Ba 2015), AdamW (Loshchilov & Hutter 2019) or Muon (see `train.optimizer`).

    Norms, biases and tokens are not decayed.
    """

    name: Literal["adamw", "adam", "sgd", "muon"] = "adamw"
    lr: float = Field(2e-3, gt=0, description="muon: of everything but the weight matrices")
    matrix_lr: float = Field(1e-2, gt=0, description="muon: of the weight matrices")
    weight_decay: float = Field(0.02, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    betas: tuple[float, float] = (0.9, 0.99)


class ScheduleSettings(Settings):
    """The learning rate over the steps: a linear warm-up, then the named curve down to `floor` times the peak."""

    name: Literal["cosine", "linear", "constant", "plateau"] = "cosine"
    warmup: float = Field(0.1, ge=0, lt=1, description="share of all steps")
    floor: float = Field(0.0, ge=0, le=1)
    factor: float = Field(0.5, gt=0, lt=1, description="plateau: what the rate is multiplied by")
    patience: int = Field(2, ge=1, description="plateau: evaluations without gain before that")


class TrainSettings(Settings):
    """Everything the loop needs to know; one of `steps` and `epochs`."""

    steps: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0)
    batch_size: int = Field(128, ge=1)
    accumulate: int = Field(1, ge=1, description="batches summed before an optimiser step")
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    clip: float | None = Field(1.0, gt=0, description="largest gradient norm")
    precision: Literal["fp32", "bf16"] = "fp32"
    modality_dropout: float = Field(0.1, ge=0, lt=1, description="chance of hiding a modality, per sample")
    augment: bool = True
    augment_from: float = Field(0.0, ge=0, le=1, description="share of the steps before augmentation begins")
    evaluate_every: int | None = Field(None, ge=1, description="steps; default: five times in all")
    early_stopping: int | None = Field(None, ge=1, description="evaluations without gain before stopping")
    cache_bytes: int = Field(2**30, ge=0, description="memory for decoded cells, of training and of validation rows")
    checkpoint_seconds: float = Field(30.0, ge=0)
    seed: int = 0
    tensorboard: bool = False

    @model_validator(mode="after")
    def _one_length(self) -> "TrainSettings":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give one of `steps` and `epochs`")
        return self

    def total_steps(self, rows: int) -> int:
        """Optimiser steps in all, for a table of so many rows."""
        if self.steps is not None:
            return self.steps
        return max(1, round(float(self.epochs or 1) * rows / (self.batch_size * self.accumulate)))
