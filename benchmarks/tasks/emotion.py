"""Which emotion, by speakers that training never heard: a CNN, an RNN and a transformer, each with four pairs of speakers left out in turn.

    python -m benchmarks.tasks.emotion [ENCODER ...]

Two more speakers validate every time; the recipe's settings were chosen on them alone. Writes results/emotion.json after each training;
those that are there are not done again unless their encoder is named.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from benchmarks import record
from benchmarks.tasks import run, tables
from triptych import console
from triptych.train.run import train_recipe

FOLDER = Path("runs/emotion")
PAIRS = (("03", "09"), ("11", "13"), ("12", "14"), ("15", "16"))  # a man and a woman each
ENCODERS: dict[str, dict[str, Any]] = {
    "cnn": {},  # the recipe's own
    "rnn": {"name": "rnn", "cell": "gru", "hidden": 96, "layers": 2, "stack": 2, "dropout": 0.3},
    "transformer": {"name": "transformer", "width": 96, "layers": 2, "strides": (2, 2), "dropout": 0.3},
}


def reached(name: str, number: int) -> dict[str, float]:
    """Accuracy and unweighted average recall on one pair, with one encoder."""
    data = FOLDER / f"{number}"
    if not (data / "schema.yaml").exists():
        tables.emotion(data, PAIRS[number])
    asked = run.recipe("emotion", {})
    voice = asked.model.inputs["voice"]
    inputs = {"voice": voice.model_copy(update={"encoder": ENCODERS[name] or voice.encoder})}
    parts = {
        "data": asked.data.model_copy(update={"path": str(data)}),
        "model": asked.model.model_copy(update={"inputs": inputs}),
    }
    metrics = run.scored(train_recipe(asked.model_copy(update=parts), FOLDER / name / f"{number}"))
    return {"accuracy": metrics["accuracy"], "uar": metrics["recall"]}


def summed(found: dict[str, dict[str, float]]) -> dict[str, list[float]]:
    """The mean over the pairs, and its 95 % interval by Student's t."""
    values = {name: np.array([one[name] for one in found.values()]) for name in ("accuracy", "uar")}
    half = {n: stats.t.ppf(0.975, len(v) - 1) * v.std(ddof=1) / len(v) ** 0.5 for n, v in values.items()}
    return {n: [float(x) for x in (v.mean(), v.mean() - half[n], v.mean() + half[n])] for n, v in values.items()}


def main() -> None:
    """The encoders that were named, or what is not there yet of all."""
    torch.set_num_threads(1)  # so that another machine with more cores finds the same
    rows: dict[str, Any] = record.read("emotion").get("encoders", {})
    for name in sys.argv[1:] or ENCODERS:
        pairs = {} if name in sys.argv else rows.get(name, {}).get("pairs", {})
        for number, pair in enumerate(PAIRS):
            key = " ".join(pair)
            pairs[key] = pairs[key] if key in pairs else reached(name, number)
            mean = summed(pairs) if len(pairs) > 1 else {}
            rows[name] = {"pairs": pairs, "mean": mean}
            record.write("emotion", {"encoders": rows})
    shown = [
        [name, *(f"{m:.1%} ({low:.1%} to {high:.1%})" for m, low, high in row["mean"].values())]
        for name, row in rows.items()
    ]
    console.table("EmoDB, mean over four left-out pairs of speakers", ["", "accuracy", "UAR"], shown)


if __name__ == "__main__":
    main()
