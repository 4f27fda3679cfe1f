"""No recipe: the parts, their sizes and the schedule are chosen from the data, the time and the memory that are allowed.

Rules draft a recipe at three sizes (`draft`). Each is measured on real rows of the table: what a step and an evaluation take, and how
much memory they hold. The largest that leaves time enough to learn is tried beside a few variations of itself, each for a short
while, and the one that answers validation rows best is trained with what time is left. Test rows are never looked at.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]

from triptych import console
from triptych.data.processor import Processor
from triptych.data.samples import Samples
from triptych.data.splits import Splits
from triptych.data.table import Table
from triptych.errors import InputError
from triptych.evaluate.memory import own_peak
from triptych.models.make import make_model
from triptych.recipe import DataSettings, Recipe
from triptych.structure import Settings
from triptych.train.draft import MOST_EPOCHS, MOST_STEPS, SIZES, Draft, Reason, draft
from triptych.train.loop import quality, train

ENOUGH = 400  # steps below which a larger model would only be less finished
TIMED = 3  # steps by which a size is measured
JUDGED = 500  # validation rows that tell variations apart
TRIALS = 0.3  # share of the time that goes into telling them apart
FAIR = 60  # steps that a variation needs to show what it can do
EVALUATIONS = 5
MARGIN = 0.85  # share of the time left that is planned for: machines are disturbed


class Allowance(Settings):
    """How long a training may take in all, and how many bytes its process may hold."""

    minutes: float
    memory: int

    @classmethod
    def of(cls, minutes: float, memory: int | None = None) -> "Allowance":
        """Four fifths of the memory that is free now, where none is said.

        Raises:
            InputError: no time at all.
        """
        if minutes <= 0:
            raise InputError(f"{minutes:g} minutes leave no time to train.", "Allow more with --minutes.")
        return cls(minutes=minutes, memory=memory or int(0.8 * psutil.virtual_memory().available))


class Chosen(NamedTuple):
    """A recipe that is ready to train, and the account of how it came about."""

    recipe: Recipe
    reasons: tuple[Reason, ...]


class Candidate(NamedTuple):
    """A drafted recipe, and what it costs on this machine.

    step, load, judge: seconds of a step, and of loading and of judging a row; memory, cells: bytes that the process holds without
    any loaded rows, and that all rows take once they are loaded; judged: validation rows in all, of which `valid` are some.
    """

    draft: Draft
    rows: Samples
    valid: Samples
    judged: int
    step: float
    load: float
    judge: float
    memory: int
    cells: int

    @property
    def most(self) -> int:
        """Steps beyond which the rows have been seen often enough."""
        return min(MOST_STEPS, max(ENOUGH, MOST_EPOCHS * len(self.rows) // self.draft.recipe.train.batch_size))

    def cache(self, memory: int) -> int:
        """Bytes that loaded rows may take of the memory."""
        return max(0, min(2**30, self.cells, memory - self.memory))

    def steps(self, seconds: float, memory: int) -> int:
        """How many steps of a training so much time holds, loading and evaluations included."""
        judging = EVALUATIONS * self.judge * self.judged
        if self.cache(memory) < self.cells:  # rows are dropped, and loaded again at every step
            return min(
                self.most, int((seconds - judging) / (self.step + self.load * self.draft.recipe.train.batch_size))
            )
        return min(self.most, int((seconds - judging - self.load * (len(self.rows) + self.judged)) / self.step))

    def trials(self, seconds: float, count: int) -> int:
        """How many steps each of some trainings has that share the time, and the loaded rows."""
        loading = self.load * (len(self.rows) + len(self.valid))
        return min(self.most, int(((seconds - loading) / count - self.judge * len(self.valid)) / self.step))


def choose(data: DataSettings, splits: Splits, allowance: Allowance, began: float | None = None) -> Chosen:
    """Choose a recipe for usable rows.

    Args:
        data: is handed on to the recipe.
        splits: usable rows under "train" and "valid", and a schema with a target.
        allowance: minutes and memory, this choice included.
        began: `time.monotonic()` from which the minutes count; default: now.

    Raises:
        InputError: not even the smallest model fits into the memory.
    """
    end = (time.monotonic() if began is None else began) + 60 * allowance.minutes
    with console.stage("measure a step of each size"), console.muted():
        candidate, size = _largest(data, splits, allowance, end)
    reasons = [*candidate.draft.reasons, size]
    variations = _variations(candidate.draft.recipe, splits)
    trial = candidate.trials(TRIALS * (end - time.monotonic()), len(variations) + 1)
    if variations and trial >= FAIR:
        candidate, reason = _race(candidate, variations, trial)
        reasons.append(reason)
    steps = max(1, candidate.steps(MARGIN * (end - time.monotonic()), allowance.memory))
    recipe = candidate.draft.recipe
    epochs = steps * recipe.train.batch_size / len(candidate.rows)
    bound = "as often as these rows bear" if steps == candidate.most else "as the time holds"
    why = f"{epochs:.1f} times through the rows at {1000 * candidate.step:.0f} ms a step: {bound}"
    settled = {
        "steps": steps,
        "evaluate_every": -(-steps // EVALUATIONS),
        "cache_bytes": candidate.cache(allowance.memory),
    }
    train = recipe.train.model_copy(update=settled)
    return Chosen(recipe.model_copy(update={"train": train}), (*reasons, Reason("steps", f"{steps:,}", why)))


def _largest(data: DataSettings, splits: Splits, allowance: Allowance, end: float) -> tuple[Candidate, Reason]:
    """The largest size that fits into the memory and leaves time enough; from the small end, for a peak of memory never falls."""
    found: tuple[Candidate, Reason] | None = None
    for size in SIZES:
        candidate = _measured(draft(data, splits, size), splits)
        steps = candidate.steps(MARGIN * (1 - TRIALS) * (end - time.monotonic()), allowance.memory)
        held = console.human_bytes(candidate.memory)
        if candidate.memory > allowance.memory:
            if found is None:
                raise InputError(
                    f"The smallest model for this data holds {held}, and {console.human_bytes(allowance.memory)} are allowed.",
                    "Allow more with --memory, or write a recipe with smaller inputs or batches.",
                )
            return _refused(found, f"{size} would hold {held}")
        if found is not None and steps < min(ENOUGH, candidate.most):
            return _refused(found, f"{size} would leave time for {max(0, steps):,}")
        found = candidate, Reason("size", size, f"{held} of memory, time for {max(0, steps):,} steps")
    assert found is not None  # the first size was taken or refused
    return found


def _refused(found: tuple[Candidate, Reason], why: str) -> tuple[Candidate, Reason]:
    """What was found before, and why nothing larger was taken."""
    candidate, reason = found
    return candidate, reason._replace(why=f"{reason.why}; {why}")


def _measured(drafted: Draft, splits: Splits) -> Candidate:
    """Run a few steps and an evaluation of a drafted recipe on real rows."""
    recipe, schema, tables = drafted.recipe, splits.schema, splits.tables
    features = {name: said.features for name, said in recipe.model.inputs.items()}
    processor = Processor.fit(tables["train"], schema, features, recipe.model.target)
    rows = Samples(tables["train"], processor, schema)
    valid = Samples(_thinned(tables["valid"], JUDGED), processor, schema)
    assert rows.labels is not None  # the schema has a target
    size = recipe.train.batch_size
    few = (
        Samples(_thinned(tables["train"], size), processor, schema),
        Samples(_thinned(valid.table, 2 * size), processor, schema),
    )
    model = make_model(recipe.model, processor, rows.labels, recipe.train.seed)
    settings = recipe.train.model_copy(update={"steps": TIMED, "evaluate_every": TIMED})
    load = _seconds(lambda: few[0].batch(range(len(few[0])))) / len(few[0])
    train(model, *few, settings)  # warms up, and loads its rows
    both = _seconds(lambda: train(model, *few, settings))
    judged = _seconds(lambda: quality(model, few[1], 2 * size))
    copies = sum(p.nbytes for p in model.parameters())  # the best weights so far
    return Candidate(
        draft=drafted,
        rows=rows,
        valid=valid,
        judged=len(tables["valid"]),
        step=max(1e-4, (both - judged) / TIMED),
        load=load,
        judge=judged / len(few[1]),
        memory=own_peak() + copies,
        cells=few[0].cached_bytes * (len(rows) + len(tables["valid"])) // len(few[0]),
    )


def _variations(recipe: Recipe, splits: Splits) -> dict[str, Recipe]:
    """Other answers to what the cells do not tell, by what they are called."""
    inputs, model, train_settings = splits.schema.inputs, recipe.model, recipe.train
    found = {}
    if any(field.kind in ("image", "audio", "video", "series") for field in inputs):
        found["no augmentation"] = recipe.model_copy(
            update={"train": train_settings.model_copy(update={"augment": False})}
        )
    task = model.task["name"]
    if len(inputs) > 1 and task in ("classify", "regress"):
        fusion = {**model.fusion, "name": "concat"}
        found["concatenation"] = recipe.model_copy(update={"model": model.model_copy(update={"fusion": fusion})})
    if task == "write":
        width = model.fusion["width"]
        decoder = {"name": "rnn", "embedding": width, "hidden": 2 * width, "attention": width}
        changed = {**model.task, "decoder": decoder}
        found["a recurrent decoder"] = recipe.model_copy(update={"model": model.model_copy(update={"task": changed})})
    return found


def _race(candidate: Candidate, variations: dict[str, Recipe], steps: int) -> tuple[Candidate, Reason]:
    """Each variation is trained for so many steps; the best on validation rows wins, what was drafted where they are level."""
    entries = {"as drafted": candidate.draft.recipe, **variations}
    scores, costs = {}, {}
    with console.progress("try variations", len(entries), unit="trial") as advance:
        for label, recipe in entries.items():
            assert candidate.rows.labels is not None  # looked at before
            model = make_model(recipe.model, candidate.rows.processor, candidate.rows.labels, recipe.train.seed)
            settings = recipe.train.model_copy(update={"steps": steps, "evaluate_every": steps})
            with console.muted():
                done = train(model, candidate.rows, candidate.valid, settings)
            scores[label], costs[label] = done.best, done.seconds / steps
            advance(note=f"{label}: {model.task.metric} {done.best:.3f}")
    best = max(scores, key=scores.__getitem__)
    told = ", ".join(f"{label} {score:.3f}" for label, score in scores.items())
    winner = candidate._replace(draft=candidate.draft._replace(recipe=entries[best]), step=costs[best])
    return winner, Reason("variation", best, f"{model.task.metric} after {steps} steps: {told}")


def _thinned(table: Table, most: int) -> Table:
    """At most so many rows of a table, evenly spaced."""
    return table.take(range(0, len(table), -(-len(table) // most)))


def _seconds(run: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
