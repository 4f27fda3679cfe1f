"""What prefix beam search and an n-gram of the training transcripts add to reading off the likeliest token of each place.

    python -m benchmarks.tasks.beams [RECIPE]

After `python -m benchmarks.tasks.run RECIPE`, whose model transcribes; an4 where none is named. The order, the weight and the bonus are
chosen on valid rows, one after the other; test rows are read once. Writes results/beams.json.
"""

import sys
from typing import Any

import torch
from jaxtyping import Float, Int
from numpy import ndarray

from benchmarks import record
from benchmarks.tasks.run import tables
from benchmarks.tasks.tables import WORK
from triptych import console
from triptych.data.samples import Samples
from triptych.data.splits import read_splits
from triptych.decoders.ctc import Search, read_off, search_for
from triptych.decoders.ngram import NGram, count
from triptych.engines.torch import TorchEngine
from triptych.models.store import read_model
from triptych.tasks.wording import Wording

BEAMS = 32
ORDERS, WEIGHTS, BONUSES = (2, 3, 4, 5, 6, 8), (0.2, 0.4, 0.6, 0.8, 1.0, 1.3, 1.6), (-0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
START = {"order": 5, "weight": 0.6, "bonus": 0.5}
Labels = Int[ndarray, "rows references tokens"]
Logits = Float[ndarray, "rows places vocabulary"]


class Measured:
    """The word error rates of a model that transcribes, by how its outputs are read."""

    def __init__(self, name: str) -> None:
        loaded, splits = read_model(WORK / name / "model"), read_splits(tables(name))
        self.wording = Wording(loaded.model.task.config.tokenizer, "words")
        self.vocabulary = loaded.model.task.config.vocabulary
        self.rows: dict[str, tuple[Logits, Labels]] = {}
        engine = TorchEngine(loaded.model)
        for split in ("valid", "test"):
            samples = Samples(splits.table(split), loaded.processor, splits.schema)
            batch = samples.batch(range(len(samples)))
            assert samples.labels is not None  # transcripts
            self.rows[split] = engine(batch.inputs, batch.presence), samples.labels
        told = Samples(splits.table("train"), loaded.processor, splits.schema).labels
        assert told is not None
        self.texts = [ids[ids != 0].tolist() for ids in told[:, 0]]

    def rate(self, split: str, search: Search | None) -> float:
        """The share of words that are wrong; without a search, of the likeliest tokens."""
        logits, labels = self.rows[split]
        ids = read_off(logits) if search is None else search_for(logits, search)
        return 1.0 - float(self.wording.scores(ids, labels).mean())

    def search(self, order: int, weight: float, bonus: float) -> Search:
        """With an n-gram of the training transcripts."""
        return Search(BEAMS, NGram(count(self.texts, order), self.vocabulary), weight, bonus)

    def chosen(self) -> dict[str, Any]:
        """The settings of fewest errors on valid rows: of each in turn."""
        best, tried = dict[str, Any](START), dict[tuple[Any, ...], float]()
        for name, values in (("weight", WEIGHTS), ("bonus", BONUSES), ("order", ORDERS)):
            for value in values:
                asked = {**best, name: value}
                key = tuple(asked.values())
                tried[key] = tried[key] if key in tried else self.rate("valid", self.search(**asked))
            best = {**best, name: min(values, key=lambda value: tried[tuple({**best, name: value}.values())])}
        return best


def main() -> None:
    """The three ways on valid and on test rows."""
    torch.set_num_threads(1)
    name = sys.argv[1] if len(sys.argv) > 1 else "an4"
    measured = Measured(name)
    best = measured.chosen()
    ways = {
        "likeliest tokens": None,
        f"{BEAMS} beams": Search(BEAMS),
        f"{BEAMS} beams, n-gram": measured.search(**best),
    }
    found = {way: {split: measured.rate(split, search) for split in measured.rows} for way, search in ways.items()}
    record.write("beams", {"recipe": name, "chosen on valid rows": best, "wer": found})
    console.table(
        f"{name}, word error rate, {best}",
        ["", *measured.rows],
        [[w, *(f"{r:.1%}" for r in by.values())] for w, by in found.items()],
    )


if __name__ == "__main__":
    main()
