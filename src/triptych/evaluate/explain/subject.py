"""What is explained: some rows, a model, and for each row the output that is asked about.

Everything is asked of the vectors z_m that the encoders give, so that one modality can be varied, or taken away, while the
others are computed once.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from triptych.data.batch import Batch
from triptych.errors import InputError
from triptych.models.fusion_model import FusionModel
from triptych.structure import Modality
from triptych.tasks import Classify, Regress

Through = Callable[..., Float[Tensor, "batch outputs"]]


@dataclass(frozen=True)
class Subject:
    """Rows that are to be explained.

    Attributes:
        model: in evaluation mode.
        batch: the rows.
        targets: the output of each row that is asked about: the true class, or the likeliest where no truth is known; 0 of
            a regression, which has one output.
        vectors: z_m of every modality, those of absent cells included, which nothing reads.
    """

    model: FusionModel
    batch: Batch
    targets: Int[Tensor, " rows"]
    vectors: Float[Tensor, "rows modalities width"]

    @classmethod
    def of(cls, model: FusionModel, batch: Batch) -> "Subject":
        """Run the encoders once.

        Raises:
            InputError: the model's task is neither classification nor regression.
        """
        if not can_be_explained(model):
            raise InputError(
                f"Answers of the task {type(model.task).__name__} cannot be explained yet.",
                "Explain a model that chooses a class or predicts a number.",
            )
        with torch.no_grad():
            vectors = model(batch.inputs).modalities
            logits = fuse(model, vectors, batch.presence)
        if isinstance(model.task, Regress):
            targets = torch.zeros(len(batch), dtype=torch.int64)
        else:
            targets = logits.argmax(1) if batch.labels is None else batch.labels
        return cls(model, batch, targets, vectors)

    def kind(self, name: str) -> Modality:
        """What a field holds."""
        return self.model.config.inputs[name]["features"]["kind"]

    def through(self, name: str) -> Through:
        """The outputs as a function of one field's features: `call(x, vectors, presence)`."""
        place = self.model.fields.index(name)
        encoder, projector = self.model.encoders[name], self.model.projectors[name]

        def call(x: Tensor, vectors: Tensor, presence: Tensor) -> Float[Tensor, "batch outputs"]:
            own = projector(encoder(x).pooled).unsqueeze(1)
            return fuse(self.model, torch.cat([vectors[:, :place], own, vectors[:, place + 1 :]], dim=1), presence)

        return call

    def amounts(self, logits: Float[Tensor, "rows outputs"]) -> Float64[np.ndarray, " rows"]:
        """What is explained, in a person's units: the probability of the class asked about, or the number predicted."""
        outputs = logits.detach().numpy()
        if isinstance(self.model.task, Classify):
            return self.model.task.soft_scores(outputs, self.targets.numpy())
        return np.array([answer["answer"] for answer in self.model.task.answers(outputs)])


def can_be_explained(model: FusionModel) -> bool:
    """Whether each answer of the model is one number: the probability of a class, or the number predicted."""
    return isinstance(model.task, Classify | Regress)


def fuse(
    model: FusionModel, vectors: Float[Tensor, "rows modalities width"], presence: Bool[Tensor, "rows modalities"]
) -> Float[Tensor, "rows outputs"]:
    """The model's outputs from the modalities' vectors; an absent one is replaced by its learned token."""
    return model.task(model.fusion(torch.where(presence.unsqueeze(-1), vectors, model.absent), presence))
