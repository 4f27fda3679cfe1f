"""Is the digit heard that was asked for? A recogniser that learned from other clips says so, its own error on real test clips beside.

    python -m benchmarks.tasks.judged [RECIPE ...]

After `python -m benchmarks.tasks.run RECIPE`. Writes results/made.json, and runs/tasks/RECIPE/made.html to listen to.
"""

import sys
from html import escape
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad

from benchmarks import record
from benchmarks.tasks.run import tables
from benchmarks.tasks.tables import WORK, table
from triptych.data.decode import decode_audio
from triptych.data.samples import Samples
from triptych.data.splits import read_splits
from triptych.data.table import Table
from triptych.engines.torch import TorchEngine
from triptych.evaluate.quality import measure
from triptych.models.store import Loaded, read_model
from triptych.recipe import Recipe, parse
from triptych.report.media import sound_uri
from triptych.train.run import train_recipe

RECIPES = ("speech", "speech_one_voice")
SIDES = ("model", "compressed")
EAR = {"name": "cnn", "stem": 24, "stem_stride": 2, "widths": [48, 96], "blocks": [1, 1]}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse } th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #ddd }
th { color: #777; font-weight: normal } audio { width: 11rem; height: 36px } .bad { color: #b00 }
"""
Answers = list[dict[str, Any]]


def recogniser() -> tuple[Loaded, float]:
    """The classifier, trained once, and the share of real test clips that it mistakes."""
    content = {
        "data": {"path": str(table("heard"))},
        "model": {
            "inputs": {"voice": {"features": {"mels": 48, "seconds": 1.0}, "encoder": EAR}},
            "fusion": {"name": "concat", "width": 96},
            "task": {"hidden": 64},
        },
        "train": {"steps": 600, "batch_size": 64, "optimizer": {"name": "muon", "lr": 0.003, "matrix_lr": 0.01}},
    }
    trained = train_recipe(parse(Recipe, content, "the recogniser"), WORK / "heard" / "model")
    rows = Samples(trained.splits.table("test"), trained.loaded.processor, trained.splits.schema)
    model = trained.loaded.model
    return trained.loaded, 1 - measure(TorchEngine(model), model.task, rows, only=["all"]).mean()


def heard(ear: Loaded, answers: Answers) -> list[str]:
    """The digit that the recogniser takes each sound for."""
    features = ear.processor.features["voice"]
    waves = [torch.from_numpy(answer["sound"])[: features.samples] for answer in answers]
    x = features.features(torch.stack([pad(wave, (0, features.samples - len(wave))) for wave in waves]))
    said = TorchEngine(ear.model)({"voice": x}, torch.ones(len(x), 1, dtype=torch.bool))
    return [one["answer"] for one in ear.model.task.answers(said)]


def asked(recipe: str) -> tuple[Table, Any]:
    """One test row for each thing that can be asked for, and the schema."""
    splits = read_splits(tables(recipe))
    test, seen = splits.table("test"), {}
    for row in range(len(test)):
        seen.setdefault(tuple(test.row(row)[field.name] for field in splits.schema.inputs), row)
    return test.take(sorted(seen.values())), splits.schema


def spoken(recipe: str) -> dict[str, Any]:
    """Word error rates, and the page."""
    ear, mistaken = recogniser()
    rows, schema = asked(recipe)
    words, speakers = rows.column("word"), rows.column("speaker")
    made: dict[str, Answers] = {}
    for name in SIDES:
        side = read_model(WORK / recipe / name)
        samples = Samples(rows, side.processor, schema)
        batch = samples.batch(range(len(samples)))
        made[name] = side.model.task.answers(TorchEngine(side.model)(batch.inputs, batch.presence))
        assert samples.labels is not None  # clips are what is to be made
        made["real clips by Griffin-Lim"] = [side.model.task.truth(label) for label in samples.labels]
    said = {name: heard(ear, found) for name, found in made.items()}
    wer = {name: float(np.mean([a != b for a, b in zip(words, ours, strict=True)])) for name, ours in said.items()}
    lines = []
    for row, (word, speaker) in enumerate(zip(words, speakers, strict=True)):
        real = decode_audio(rows.root / rows.column("voice")[row], 8_000, rows.place(row))
        cells = [f'<td><audio controls preload="none" src="{sound_uri(real, 8_000)}"></audio></td>']
        for name, found in made.items():
            uri, digit = sound_uri(found[row]["sound"], found[row]["rate"]), said[name][row]
            note = "" if digit == word else f'<span class="bad">heard as {escape(digit)}</span>'
            cells.append(f'<td><audio controls preload="none" src="{uri}"></audio>{note}</td>')
        lines.append(f"<tr><td>{escape(word)}</td><td>{escape(speaker)}</td>{''.join(cells)}</tr>")
    head = "".join(f"<th>{escape(name)}</th>" for name in ("word", "speaker", "a real test clip", *made))
    page = (
        f'<!doctype html><meta charset="utf-8"><title>Spoken digits</title><style>{STYLE}</style><h1>Spoken digits</h1>'
    )
    body = f"<table><tr>{head}</tr>{''.join(lines)}</table>"
    (WORK / recipe / "made.html").write_text(page + body, encoding="utf-8")
    return {"recogniser_on_real_clips": mistaken, "wer": wer, "asked": len(words)}


def main() -> None:
    """The recipes that were named, or all that have been run."""
    found = record.read("made").get("rows", {})
    for name in sys.argv[1:] or [name for name in RECIPES if (WORK / name / "compressed").exists()]:
        found[name] = spoken(name)
        print(name, found[name], WORK / name / "made.html")
        record.write("made", {"rows": found})


if __name__ == "__main__":
    main()
