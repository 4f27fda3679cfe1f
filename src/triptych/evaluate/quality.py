"""Quality under each condition: all modalities present, each one removed, each one shuffled between the samples.

Removed, modality m is replaced by its learned absent token: what is lost is what m contributes. Shuffled, m is present but belongs
to another sample: a model that ignores m does not notice. The scores are kept row by row, so that two models can be compared on
the same rows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, UInt8
from torch import Tensor

from triptych import console
from triptych.data.batch import Batch
from triptych.data.samples import Samples
from triptych.tasks import Task, settled

Outputs = Float[np.ndarray, "batch ..."] | Int[np.ndarray, "batch tokens"]
Settled = Float[np.ndarray, "rows ..."] | Int[np.ndarray, "rows tokens"] | UInt8[np.ndarray, "rows height width"]
Predict = Callable[[dict[str, Tensor], Bool[Tensor, "batch modalities"]], Outputs]


@dataclass(frozen=True)
class Quality:
    """Per-row scores by condition: "all", "without:<field>", "shuffled:<field>", and what is kept of the outputs under "all".

    `soft` scores the same rows before an answer is decided on (for a classifier, the probability given to the truth).
    """

    metric: str
    scores: dict[str, Float64[np.ndarray, " rows"]]
    soft: dict[str, Float64[np.ndarray, " rows"]]
    outputs: Settled
    metrics: dict[str, float]

    def mean(self, condition: str = "all") -> float:
        """The quality under a condition."""
        return float(self.scores[condition].mean())

    def report(self) -> dict[str, object]:
        """The `quality` object of report.json."""
        by = {
            c: {k.split(":")[1]: self.mean(k) for k in self.scores if k.startswith(c)} for c in ("without", "shuffled")
        }
        return {"metric": self.metric, "all": self.mean(), **by}


def conditions(fields: tuple[str, ...]) -> list[str]:
    """The conditions for these fields; a single field cannot be removed."""
    if len(fields) == 1:
        return ["all", f"shuffled:{fields[0]}"]
    return ["all", *(f"without:{f}" for f in fields), *(f"shuffled:{f}" for f in fields)]


def measure(
    predict: Predict,
    task: Task,
    samples: Samples,
    *,
    seed: int = 0,
    batch_size: int = 256,
    only: list[str] | None = None,
    label: str = "evaluate",
) -> Quality:
    """Score every row under every condition (or under `only` some).

    Args:
        predict: an engine; (inputs, presence) -> outputs.
        task: turns outputs and labels into scores.
        samples: rows with labels.
        seed: of the permutation that shuffles a modality between samples.
        batch_size: rows a call.
        only: a subset of the conditions.
        label: what the progress line says.
    """
    fields = tuple(samples.fields)
    wanted = only or conditions(fields)
    labels = samples.labels
    assert labels is not None  # evaluation tables have a target
    permutation = derangement(len(samples), seed)
    collected: dict[str, list[Settled]] = {condition: [] for condition in wanted}
    with console.progress(label, len(samples), unit="row") as advance:
        for start in range(0, len(samples), batch_size):
            rows = np.arange(start, min(start + batch_size, len(samples)))
            for condition, batch in _views(samples, rows, permutation, wanted):
                collected[condition].append(settled(task, predict(batch.inputs, batch.presence)))
            advance(len(rows))
    outputs = {condition: np.concatenate(parts) for condition, parts in collected.items()}
    scores = {condition: task.scores(output, labels) for condition, output in outputs.items()}
    soft = {condition: task.soft_scores(output, labels) for condition, output in outputs.items()}
    return Quality(task.metric, scores, soft, outputs["all"], task.metrics(outputs["all"], labels))


def _views(
    samples: Samples, rows: Int[np.ndarray, " batch"], permutation: Int[np.ndarray, " rows"], wanted: list[str]
) -> Iterator[tuple[str, Batch]]:
    """The batch under each condition; the shuffled partner rows are loaded once."""
    batch = samples.batch(rows.tolist())
    partner = samples.batch(permutation[rows].tolist()) if any(c.startswith("shuffled") for c in wanted) else None
    for condition in wanted:
        kind, _, name = condition.partition(":")
        if kind == "all":
            yield condition, batch
        elif kind == "without":
            yield condition, batch.without(name)
        else:
            assert partner is not None  # loaded above
            yield condition, batch.with_field(name, partner)


def derangement(rows: int, seed: int) -> Int[np.ndarray, " rows"]:
    """A seeded permutation that moves every row: a random cycle (Sattolo 1986)."""
    order = np.random.default_rng(seed).permutation(rows)
    moved = np.empty(rows, dtype=np.int64)
    moved[order] = np.roll(order, 1)
    return moved
