"""The tables of what is heard: each takes a JSON of results/ and returns a head and rows."""

from statistics import mean
from typing import Any

from triptych.console import percent

Table = list[list[str]]


def folds(found: dict[str, Any]) -> Table:
    """Accuracy on each fold of ESC-10, by recipe."""
    rows = [[name, percent(mean(by.values())), *map(percent, by.values())] for name, by in found["accuracy"].items()]
    return [["recipe", "mean", *(f"fold {fold}" for fold in next(iter(found["accuracy"].values())))], *rows]


def beams(found: dict[str, Any]) -> Table:
    """Word error rates of one model, by how its outputs are read."""
    rows = [[way, *map(percent, by.values())] for way, by in found["wer"].items()]
    return [
        [f"{found['recipe']}, word errors", *(f"{split} rows" for split in next(iter(found["wer"].values())))],
        *rows,
    ]


def emotion(found: dict[str, Any]) -> Table:
    """Accuracy and unweighted average recall over the pairs of speakers that were left out, by encoder."""
    rows = []
    for name, row in found["encoders"].items():
        whole = [f"{percent(m)} ({percent(low)} to {percent(high)})" for m, low, high in row["mean"].values()]
        pairs = [f"{speakers.replace(' ', ' and ')}: {percent(by['uar'])}" for speakers, by in row["pairs"].items()]
        rows.append([name, *whole, ", ".join(pairs)])
    return [["encoder", "accuracy", "UAR", "UAR by pair"], *rows]
