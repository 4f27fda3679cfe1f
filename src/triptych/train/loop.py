"""The training loop, for a first training and for distillation alike.

All randomness of a step (its rows, augmentation, dropped modalities, dropout) is a function of (seed, step). So a run that was
killed and resumed from a checkpoint ends in the same weights, and a checkpoint needs no generator state.
"""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.optim import Optimizer

from triptych import console
from triptych.data.batch import Batch
from triptych.data.samples import Samples
from triptych.errors import NumericsError, Stopped
from triptych.models.fusion_model import FusionModel
from triptych.tasks import settled
from triptych.train.checkpoint import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from triptych.train.frozen import kept
from triptych.train.log import Log
from triptych.train.optimizer import make_optimizers
from triptych.train.schedule import rate, waited
from triptych.train.settings import TrainSettings

Objective = Callable[[FusionModel, Batch], Tensor]


@dataclass
class Trained:
    """What a training run leaves: the model holds the best weights."""

    steps: int
    best: float
    history: list[float] = field(default_factory=list)
    seconds: float = 0.0


def task_loss(model: FusionModel, batch: Batch) -> Tensor:
    """The loss of the model's own task on the batch's labels."""
    loss = model(batch.inputs, batch.presence, labels=batch.labels).loss
    assert loss is not None  # labels were given
    return loss


def train(
    model: FusionModel,
    rows: Samples,
    valid: Samples,
    settings: TrainSettings,
    *,
    folder: Path | None = None,
    objective: Objective = task_loss,
    after_step: Callable[[FusionModel], None] | None = None,
    label: str = "train",
) -> Trained:
    """Train in place and leave the weights that did best on `valid`.

    Args:
        model: is changed in place.
        rows: training samples.
        valid: samples on which the best weights are chosen; never the test set.
        settings: lengths, rates and the rest.
        folder: where checkpoints and the log go; the same call continues from the newest one. None keeps nothing.
        objective: loss of (model, batch); the task's own by default.
        after_step: called with the model after each step of the optimiser (to keep pruned weights at zero).
        label: what the progress line says.

    Raises:
        NumericsError: the loss is not finite; names the step and the module where it began.
        Stopped: Ctrl-C or SIGTERM; a checkpoint was written.
    """
    # Distillation shows the same batch to a teacher with encoders of its own, and augmentation changes what an encoder would say.
    once = objective is task_loss and not settings.augment
    with kept(model, rows, valid) if once else nullcontext((rows, valid)) as (rows, valid):  # noqa: PLR1704 - the same rows
        return _train(model, rows, valid, settings, folder, objective, after_step, label)


def _train(
    model: FusionModel,
    rows: Samples,
    valid: Samples,
    settings: TrainSettings,
    folder: Path | None,
    objective: Objective,
    after_step: Callable[[FusionModel], None] | None,
    label: str,
) -> Trained:
    from accelerate import Accelerator

    accelerator = Accelerator()  # its own precision is the process's, and a process may train at two
    model.to(memory_format=torch.channels_last)  # a quarter less time a step for convolutions on CPUs
    raw = make_optimizers(model, settings.optimizer)
    total = settings.total_steps(len(rows))
    every = settings.evaluate_every or max(1, -(-total // 5))
    trained, best_weights, start = _resume(folder, model, raw)
    prepared, *optimizers = accelerator.prepare(model, *raw)
    log = Log(folder, tensorboard=settings.tensorboard)
    began, saved = time.monotonic(), time.monotonic()
    stop_early = settings.early_stopping is not None and waited(trained.history) >= settings.early_stopping

    with console.progress(label, total, unit="step") as advance, _deferred_interrupt() as interrupted, log:
        advance(start)
        for step in range(start, total if not stop_early else start):
            scale = rate(settings.schedule, step, total, trained.history)
            for group in (group for optimizer in raw for group in optimizer.param_groups):
                group["lr"] = group["initial_lr"] * scale
            loss = _step(prepared, optimizers, accelerator, rows, settings, step, objective)
            if not np.isfinite(loss):
                raise _diagnose(model, rows.batch(_rows_of(settings, step, 0, len(rows), accelerator)), step)
            if after_step is not None:
                after_step(model)
            log.write(step=step, loss=loss, lr=settings.optimizer.lr * scale)
            note = f"loss {loss:.3f}"
            if (step + 1) % every == 0 or step + 1 == total:
                score = quality(model, valid, 2 * settings.batch_size)
                trained.history.append(score)
                note += f"  valid {model.task.metric} {score:.3f}"
                log.write(step=step, valid=score)
                if score >= max(trained.history):
                    best_weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
                stop_early = settings.early_stopping is not None and waited(trained.history) >= settings.early_stopping
            advance(1, note=note)
            trained.steps = step + 1
            if folder is not None and (interrupted() or time.monotonic() - saved > settings.checkpoint_seconds):
                _save(folder, model, raw, best_weights, trained)
                saved = time.monotonic()
            if interrupted():
                kept = f"A checkpoint is in {folder}." if folder else "Nothing was kept, as no folder was given."
                raise Stopped(
                    f"Training was stopped at step {step + 1} of {total}. {kept}", "The same command continues."
                )
            if stop_early:
                break
    model.load_state_dict(best_weights)
    model.eval()
    trained.best = max(trained.history, default=float("nan"))
    trained.seconds = time.monotonic() - began
    return trained


def drop_modalities(
    presence: Bool[Tensor, "batch modalities"], chance: float, generator: torch.Generator
) -> Bool[Tensor, "batch modalities"]:
    """Hide each present modality of each sample with the given chance, but never the last one of a sample."""
    if chance <= 0:
        return presence
    kept = presence & (torch.rand(presence.shape, generator=generator) >= chance)
    return torch.where(kept.any(1, keepdim=True), kept, presence)


@torch.no_grad()
def quality(model: FusionModel, samples: Samples, batch_size: int = 256) -> float:
    """The task's mean score on all rows of `samples`, scored together: a neighbour may stand in another batch."""
    model.eval()
    assert samples.labels is not None  # training tables have a target
    said = []
    for start in range(0, len(samples), batch_size):
        batch = samples.batch(range(start, min(start + batch_size, len(samples))))
        outputs = model(batch.inputs, batch.presence).logits.cpu()
        outputs = (outputs.float() if outputs.is_floating_point() else outputs).numpy()
        said.append(settled(model.task, outputs))
    return float(model.task.scores(np.concatenate(said), samples.labels).mean())


def _step(
    model: Any,
    optimizers: list[Any],
    accelerator: Any,
    rows: Samples,
    settings: TrainSettings,
    step: int,
    objective: Objective,
) -> float:
    """One optimiser step; returns the mean loss of its batches."""
    model.train()
    torch.manual_seed(settings.seed * 1_000_003 + step)  # dropout
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss_sum = 0.0
    for part in range(settings.accumulate):
        generator = torch.Generator().manual_seed((settings.seed * 1_000_003 + step) * 64 + part)
        indices = _rows_of(settings, step, part, len(rows), accelerator)
        augment = settings.augment and step >= settings.augment_from * settings.total_steps(len(rows))
        batch = rows.batch(indices, augment=augment, generator=generator)
        batch.presence = drop_modalities(batch.presence, settings.modality_dropout, generator)
        with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            loss = objective(model, batch.to(accelerator.device))
        loss_sum += float(loss.detach())
        if not math.isfinite(loss_sum):
            return loss_sum  # before the optimiser spreads it over all weights, so that its origin can be found
        accelerator.backward(loss / settings.accumulate)
    if settings.clip is not None:
        accelerator.clip_grad_norm_(model.parameters(), settings.clip)
    for optimizer in optimizers:
        optimizer.step()
    return loss_sum / settings.accumulate


def _rows_of(settings: TrainSettings, step: int, part: int, rows: int, accelerator: Any) -> list[int]:
    """The rows of a batch: each epoch is one seeded permutation, dealt out without gaps; each process takes every n-th row."""
    first = (step * settings.accumulate + part) * settings.batch_size
    epochs = range(first // rows, (first + settings.batch_size - 1) // rows + 1)
    order = np.concatenate([_permutation(settings.seed, epoch, rows) for epoch in epochs])
    offset = first - epochs[0] * rows
    chosen = order[offset : offset + settings.batch_size]
    return chosen[accelerator.process_index :: accelerator.num_processes].tolist()


@lru_cache(maxsize=2)  # a batch meets at most the end of one epoch and the start of the next
def _permutation(seed: int, epoch: int, rows: int) -> Int[np.ndarray, " rows"]:
    return np.random.default_rng([seed, epoch]).permutation(rows)


def _resume(
    folder: Path | None, model: FusionModel, optimizers: list[Optimizer]
) -> tuple[Trained, dict[str, Tensor], int]:
    """Continue from the newest whole checkpoint, if there is one."""
    fresh = {name: value.detach().clone() for name, value in model.state_dict().items()}
    checkpoint = load_checkpoint(folder / "checkpoints") if folder is not None else None
    if checkpoint is None:
        return Trained(steps=0, best=float("nan")), fresh, 0
    model.load_state_dict(_under("model.", checkpoint.tensors))
    for number, optimizer in enumerate(optimizers):
        tensors = _under(f"optimizer-{number}.", checkpoint.tensors)
        restore_optimizer(optimizer, tensors, checkpoint.state["optimizers"][number])
    console.say(f"continuing from step {checkpoint.step}")
    trained = Trained(steps=checkpoint.step, best=float("nan"), history=list(checkpoint.state["history"]))
    return trained, _under("best.", checkpoint.tensors), checkpoint.step


def _save(
    folder: Path, model: FusionModel, optimizers: list[Optimizer], best: dict[str, Tensor], trained: Trained
) -> None:
    everything = {f"model.{name}": value for name, value in model.state_dict().items()}
    everything |= {f"best.{name}": value for name, value in best.items()}
    states = []
    for number, optimizer in enumerate(optimizers):
        tensors, state = optimizer_tensors(optimizer)
        everything |= {f"optimizer-{number}.{name}": value for name, value in tensors.items()}
        states.append(state)
    save_checkpoint(
        folder / "checkpoints", trained.steps, everything, {"history": trained.history, "optimizers": states}
    )


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


@contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and SIGTERM into a flag that the loop reads between steps, so that a checkpoint is always whole."""
    caught: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if caught:  # the second Ctrl-C means it
            raise KeyboardInterrupt
        caught.append(number)

    try:
        previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: signals belong to someone else
        previous = {}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@torch.no_grad()
def _diagnose(model: FusionModel, batch: Batch, step: int) -> NumericsError:
    """Find the first module that turns finite inputs into a NaN or an infinity."""
    first: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
            tensors = [output] if isinstance(output, Tensor) else [t for t in output if isinstance(t, Tensor)]
            if not first and any(not bool(t.isfinite().all()) for t in tensors if t.is_floating_point()):
                first.append(name)

        return look

    hooks = [m.register_forward_hook(watch(name)) for name, m in model.named_modules() if not any(m.children())]
    model.eval()
    model(batch.inputs, batch.presence)
    for hook in hooks:
        hook.remove()
    bad = [name for name, parameter in model.named_parameters() if not bool(parameter.isfinite().all())]
    inputs = [name for name, x in batch.inputs.items() if x.is_floating_point() and not bool(x.isfinite().all())]
    where = (
        f"input {inputs[0]!r} holds it"
        if inputs
        else f"it begins in {first[0]!r}"
        if first
        else f"the weights {bad[0]!r} hold it"
        if bad
        else "the forward pass is finite, so it came from the loss"
    )
    return NumericsError(
        f"The loss of step {step + 1} is not a finite number: {where}.", "Lower train.optimizer.lr, or set train.clip."
    )
