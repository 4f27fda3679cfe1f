"""What each pass of a plan does to a model. A pass takes the state that the pass before it left and changes it in place."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from triptych import console
from triptych.compress import plan as plans
from triptych.compress.distill.features import FeatureDistillation
from triptych.compress.distill.logits import LogitsDistillation
from triptych.compress.distill.regression import RegressionDistillation
from triptych.compress.distill.similarity import similarity_loss
from triptych.compress.prune.blocks import drop
from triptych.compress.prune.refit import shrink_and_refit
from triptych.compress.prune.unstructured import Masks, magnitude_masks
from triptych.compress.prune.width import shapes_of, shrink
from triptych.compress.quantize.fold import fold
from triptych.compress.quantize.grid import output_error
from triptych.compress.quantize.layers import QuantizedWeight, apply, weights
from triptych.compress.quantize.moments import collect
from triptych.compress.quantize.rounding import quantize_weight
from triptych.data.batch import Batch
from triptych.data.samples import Samples
from triptych.models.fusion_model import FusionConfig, FusionModel
from triptych.models.make import make_model
from triptych.recipe import ModelSettings, parse
from triptych.registry import find
from triptych.structure import Width
from triptych.train.loop import train


@dataclass
class State:
    """A model on its way: what it is now, and what was done to it."""

    model: FusionModel
    quantized: dict[str, QuantizedWeight] = field(default_factory=dict)
    masks: Masks | None = None
    sqnr_db: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Surroundings:
    """What a pass may look at: the original, and rows for calibration and for choosing. Never the test rows."""

    teacher: FusionModel
    rows: Samples
    valid: Samples
    seed: int = 0

    def calibration(self, count: int, batch_size: int = 64) -> list[Batch]:
        """The same seeded training rows for every method, without augmentation."""
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(len(self.rows), generator=generator)[:count].tolist()
        return [self.rows.batch(chosen[i : i + batch_size]) for i in range(0, len(chosen), batch_size)]


def run_pass(state: State, step: plans.Pass, around: Surroundings, folder: Path) -> None:
    """Do one pass; `folder` is where a long one keeps its checkpoints."""
    if isinstance(step, plans.Prune):
        prune(state, step, around)
    elif isinstance(step, plans.Drop):
        for name in step.blocks:
            drop(state.model, name)
        state.model.config.dropped = [*state.model.config.dropped, *step.blocks]
    elif isinstance(step, plans.Sparsify):
        state.masks = magnitude_masks(state.model, list(weights(state.model)), step.sparsity, scope=step.scope)
        state.masks.apply_(state.model)
    elif isinstance(step, plans.Distil):
        distil(state, step, around, folder)
    else:
        quantise(state, step, around)


def zeros_kept(model: FusionModel) -> Masks:
    """Masks of a model that was made sparse, read off its zeros."""
    return Masks({name: view.parameter.detach() != 0 for name, view in weights(model).items()})


def importances(model: FusionModel, method: str, batches: list[Batch]) -> dict[str, Tensor]:
    """A score for every unit of every width, by the registered importance of that name."""
    return find("importance", method)().score(model, model.widths(), batches, _task_loss)


def prune(state: State, step: plans.Prune, around: Surroundings) -> None:
    """Narrow the named widths to their most important units; refit the layers that read them by least squares."""
    model = state.model
    batches = around.calibration(step.rows)
    scores = importances(model, step.importance, batches)
    keep = {
        name: scores[name].argsort(descending=True, stable=True)[:count].sort().values
        for name, count in step.keep.items()
    }
    widths = {width.name: width for width in model.widths() if width.name in keep}
    narrow(model, widths, keep, batches if step.refit else None)


def narrow(model: FusionModel, widths: dict[str, Width], keep: dict[str, Tensor], batches: list[Batch] | None) -> None:
    """Keep only these units; with calibration batches, refit the readers. States the new shapes in the config."""
    readers = {member.parameter for width in widths.values() for member in width.consumers}
    statistics = collect(model, map(call, batches), sorted(readers & weights(model).keys())) if batches else {}
    moments = {name: s.moment for name, s in statistics.items() if s.moment is not None}
    means = {name: s.mean for name, s in statistics.items() if s.mean is not None}
    for name, width in widths.items():
        if batches:
            shrink_and_refit(model, width, keep[name], moments, means)
        else:
            shrink(model, width, keep[name])
    state_shapes(model)


def state_shapes(model: FusionModel) -> None:
    """Write into the config which shapes differ from what the rest of the config would build."""
    config = FusionConfig.from_dict({**model.config.to_dict(), "shapes": {}})
    reference = FusionModel(config)
    model.config.shapes = {name: list(shape) for name, shape in shapes_of(model, reference).items()}


def distil(state: State, step: plans.Distil, around: Surroundings, folder: Path) -> None:
    """Train the compressed model (or a new student) to answer as the original does, the same modalities hidden from both."""
    if step.student is not None:
        settings = parse(ModelSettings, step.student, "the plan's student")
        assert around.rows.labels is not None  # training tables have a target
        state.model = make_model(settings, around.rows.processor, around.rows.labels, around.seed)
    objective = distillation_loss(around.teacher, step)
    mask = state.masks
    after = None if mask is None else mask.apply_
    train(
        state.model,
        around.rows,
        around.valid,
        step.training(around.seed),
        folder=folder,
        objective=objective,
        after_step=after,
        label="distil",
    )


def distillation_loss(teacher: FusionModel, step: plans.Distil) -> Callable[[FusionModel, Batch], Tensor]:
    """The weighted sum of the losses that the pass names: labels, logits, features, similarity.

    The student may read fewer fields than the teacher; it is then shown those alone, and learns what the teacher saw in all of them.
    """
    teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
    usual = (
        RegressionDistillation()
        if getattr(teacher.task, "numbers", False)
        else LogitsDistillation(LogitsDistillation.Config(temperature=step.temperature))
    )
    answers: Callable[[Tensor, Tensor], Tensor] = getattr(teacher.task, "divergence", usual)
    width = teacher.absent.shape[1]
    features = FeatureDistillation(student_width=width, teacher_width=width)

    def objective(model: FusionModel, batch: Batch) -> Tensor:
        with torch.no_grad():
            told = teacher(batch.inputs, batch.presence, labels=batch.labels)
        shared = [teacher.fields.index(name) for name in model.fields]
        shown = {name: batch.inputs[name] for name in model.fields}
        said = model(shown, batch.presence[:, shared], labels=batch.labels)
        parts: dict[str, Callable[[], Tensor]] = {
            "labels": lambda: said.loss,
            "logits": lambda: answers(said.logits, told.logits),
            "features": lambda: features(said.modalities, told.modalities[:, shared]),
            "similarity": lambda: similarity_loss(said.fused, told.fused),
        }
        return torch.stack([weight * parts[name]() for name, weight in step.losses.items() if weight]).sum()

    return objective


def quantise(state: State, step: plans.Quantise, around: Surroundings) -> None:
    """Fold the norms away, collect each layer's statistics once, and round its weights onto their grid."""
    model = state.model.eval()
    batches = around.calibration(step.rows)
    fold_norms(model, batches[0])
    schemes = {name: plans.scheme(text, step.method) for name, text in step.layers.items() if text != "fp32"}
    statistics = collect(model, map(call, batches), sorted(schemes))
    views = weights(model)
    with console.progress("quantise", len(schemes), unit="layer") as advance:
        for name, asked in schemes.items():
            # GPTQ makes up for each rounded weight with the ones after it, pruned ones too; to the nearest, zero stays zero
            pruned = state.masks is not None and name in state.masks.masks
            scheme = asked.model_copy(update={"method": "rtn"}) if pruned else asked
            found = statistics[name]
            item = quantize_weight(views[name], scheme, found, search=step.range)
            lost = output_error(views[name].matrix, item.codes.dequantize(), found.moment)
            state.sqnr_db[name] = -10 * math.log10(max(lost, 1e-30))
            state.quantized[name] = item
            advance(1, note=f"{name} {state.sqnr_db[name]:.0f} dB")
    apply(model, state.quantized)


def fold_norms(model: FusionModel, batch: Batch) -> None:
    """Fold every batch norm into the layer before it, and state so in the config."""
    model.config.folded = {**model.config.folded, **fold(model, call(batch))}
    state_shapes(model)


def call(batch: Batch) -> Callable[[nn.Module], object]:
    """One forward pass on a batch, to be made by whoever watches a model's layers."""
    return lambda model: model(batch.inputs, batch.presence, labels=batch.labels)


def _task_loss(model: nn.Module, batch: Batch) -> Tensor:
    loss: Tensor = model(batch.inputs, batch.presence, labels=batch.labels).loss
    return loss
