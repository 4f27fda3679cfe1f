"""Is the digit heard, is the shape seen that was asked for? Classifiers that learned from other clips and pictures say so, what they make
of real test rows beside.

    python -m benchmarks.tasks.judged [RECIPE ...]

After `python -m benchmarks.tasks.run RECIPE`. Writes results/made.json, and runs/tasks/RECIPE/made.html to listen to or to look at.
"""

import sys
from collections.abc import Callable
from html import escape
from typing import Any

import numpy as np
import torch
from scipy.stats import bootstrap
from torch.nn.functional import pad

from benchmarks import record
from benchmarks.tasks.run import tables
from benchmarks.tasks.tables import WORK, table
from triptych.data.decode import decode_audio, decode_image
from triptych.data.samples import Samples
from triptych.data.splits import read_splits
from triptych.data.table import Table
from triptych.engines.torch import TorchEngine
from triptych.evaluate.quality import measure
from triptych.models.store import Loaded, read_model
from triptych.recipe import Recipe, parse
from triptych.report.media import picture_uri, sound_uri
from triptych.train.run import train_recipe

SIDES = ("model", "compressed")
SEEDS = 12  # of the noise, with several drawings of each caption
NET = {"name": "cnn", "stem": 24, "stem_stride": 2, "widths": [48, 96], "blocks": [1, 1]}
JUDGES: dict[str, dict[str, Any]] = {
    "heard": {"voice": {"features": {"mels": 48, "seconds": 1.0}, "encoder": NET}},
    "seen": {"picture": {"features": {"size": 32, "brightness": 0, "contrast": 0, "saturation": 0}, "encoder": NET}},
}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse } th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #ddd }
th { color: #777; font-weight: normal } img { width: 24rem; image-rendering: pixelated }
.real { width: 6rem } audio { width: 11rem; height: 36px } .bad { color: #b00 }
"""
Answers = list[dict[str, Any]]


def judge(name: str) -> tuple[Loaded, float]:
    """The classifier, trained once, and its accuracy on real test rows."""
    content = {
        "data": {"path": str(table(name))},
        "model": {"inputs": JUDGES[name], "fusion": {"name": "concat", "width": 96}, "task": {"hidden": 64}},
        "train": {"steps": 600, "batch_size": 64, "optimizer": {"name": "muon", "lr": 0.003, "matrix_lr": 0.01}},
    }
    trained = train_recipe(parse(Recipe, content, f"the judge {name}"), WORK / name / "model")
    rows = Samples(trained.splits.table("test"), trained.loaded.processor, trained.splits.schema)
    model = trained.loaded.model
    return trained.loaded, measure(TorchEngine(model), model.task, rows, only=["all"]).mean()


def judged(judge: Loaded, cells: list[torch.Tensor]) -> list[str]:
    """What the judge takes each clip or picture for."""
    ((field, features),) = judge.processor.features.items()
    x = features.features(torch.stack(cells))
    said = TorchEngine(judge.model)({field: x}, torch.ones(len(x), 1, dtype=torch.bool))
    return [one["answer"] for one in judge.model.task.answers(said)]


def heard(ear: Loaded, answers: Answers) -> list[str]:
    """The digit that the recogniser takes each sound for."""
    samples = ear.processor.features["voice"].samples
    waves = [torch.from_numpy(answer["sound"])[:samples] for answer in answers]
    return judged(ear, [pad(wave, (0, samples - len(wave))) for wave in waves])


def asked(recipe: str) -> tuple[Table, Any]:
    """One test row for each thing that can be asked for, and the schema."""
    splits = read_splits(tables(recipe))
    test, seen = splits.table("test"), {}
    for row in range(len(test)):
        seen.setdefault(tuple(test.row(row)[field.name] for field in splits.schema.inputs), row)
    return test.take(sorted(seen.values())), splits.schema


def spoken(recipe: str) -> dict[str, Any]:
    """Word error rates, and the page."""
    ear, accuracy = judge("heard")
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
    page(recipe, "Spoken digits", f"<table><tr>{head}</tr>{''.join(lines)}</table>")
    return {"recogniser_on_real_clips": 1 - accuracy, "wer": wer, "asked": len(words)}


def drawn(recipe: str) -> dict[str, Any]:
    """Shares of drawings with the asked colour and shape, and the page."""
    eye, accuracy = judge("seen")
    rows, schema = asked(recipe)
    captions = rows.column("caption")
    right: dict[str, dict[str, Any]] = {}
    shown: dict[str, list[str]] = {}
    for name in SIDES:
        side = read_model(WORK / recipe / name)
        batch = Samples(rows, side.processor, schema).batch(range(len(rows)))
        made = []
        for seed in range(SEEDS):
            side.model.task.seed(seed)
            made.append(side.model.task.pixels(TorchEngine(side.model)(batch.inputs, batch.presence)))
        pictures = np.concatenate(made, axis=1)
        cells = torch.from_numpy(np.moveaxis(pictures, -1, 2)).flatten(0, 1)
        told = [caption.split() for caption in captions for _ in range(pictures.shape[1])]
        said = [label.split() for label in judged(eye, list(cells))]
        hits = np.array([(a[1] == b[1], a[2] == b[2], a == b) for a, b in zip(told, said, strict=True)])
        right[name] = dict(zip(("colour", "shape", "both"), hits.mean(0).tolist(), strict=True))
        by_noise = hits[:, 2].reshape(pictures.shape[:2]).mean(0)  # all captions are drawn from the same noise
        interval = bootstrap((by_noise,), np.mean, method="percentile", rng=0).confidence_interval
        right[name] |= {"interval": list(interval), "pictures": len(hits), "noises": len(by_noise)}
        shown[name] = [picture_uri(np.hstack(list(row[:4]))) for row in pictures]
    lines = []
    for row, caption in enumerate(captions):
        real = picture_uri(decode_image(rows.root / rows.column("picture")[row], rows.place(row)))
        cells = [f'<td><img class="real" src="{real}" alt=""></td>']
        cells += [f'<td><img src="{uris[row]}" alt=""></td>' for uris in shown.values()]
        lines.append(f"<tr><td>{escape(caption)}</td>{''.join(cells)}</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("caption", "a real test picture", *SIDES))
    page(recipe, "Drawn as asked", f"<table><tr>{head}</tr>{''.join(lines)}</table>")
    return {"judge_on_real_pictures": accuracy, "right": right}


def page(recipe: str, title: str, body: str) -> None:
    """One file with everything in it."""
    head = f'<!doctype html><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style><h1>{title}</h1>'
    (WORK / recipe / "made.html").write_text(head + body, encoding="utf-8")


KINDS: dict[str, Callable[[str], dict[str, Any]]] = {
    "speech": spoken,
    "speech_one_voice": spoken,
    "drawing": drawn,
}


def main() -> None:
    """The recipes that were named, or all that have been run."""
    found = record.read("made").get("rows", {})
    for name in sys.argv[1:] or [name for name in KINDS if (WORK / name / "compressed").exists()]:
        found[name] = KINDS[name](name)
        print(name, found[name], WORK / name / "made.html")
        record.write("made", {"rows": found})


if __name__ == "__main__":
    main()
