"""A recipe from what the data holds: rules that say which parts read which columns, how large they are, and why.

What cannot be known from the cells (how much time a step takes, which of two fusions serves better) is measured in `automatic`.
"""

import random
import statistics
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from triptych.data.decode import audio_header, audio_source, decode_image, media_source
from triptych.data.schema import Field
from triptych.data.splits import Splits
from triptych.data.table import Table
from triptych.data.target import references
from triptych.models.make import TASKS
from triptych.recipe import DataSettings, Recipe, parse

Size = Literal["small", "medium", "large"]
SIZES: tuple[Size, ...] = ("small", "medium", "large")

WIDTH = {"small": 64, "medium": 96, "large": 128}  # of vectors that are fused, of recurrent units, of tokens
CHANNELS = {
    "small": 24,
    "medium": 48,
    "large": 64,
}  # of the first stage of a convolutional encoder, doubled at each further one
SIDE = {"small": 48, "medium": 64, "large": 96}  # pixels of the longer side of a picture that is judged as a whole
DENSE = {"small": 160, "medium": 240, "large": 320}  # the same where every pixel is answered
DRAWN = 32  # the same where a picture is to be made
LOOKED_AT = 64  # cells of a column that are opened
FEW = 2_000  # rows below which a model is likely to learn its rows by heart
MOST_EPOCHS = 60
MOST_STEPS = 3_000


class Reason(NamedTuple):
    """One line of the account that is given to the user."""

    what: str
    choice: str
    why: str


class Draft(NamedTuple):
    """A recipe whose number of steps is not settled, and the reasons for it."""

    recipe: Recipe
    reasons: tuple[Reason, ...]


class Part(NamedTuple):
    """How a column is read."""

    features: dict[str, Any]
    encoder: dict[str, Any]
    why: str


def draft(data: DataSettings, splits: Splits, size: Size) -> Draft:
    """The recipe that rules give for these columns at this size.

    Args:
        data: is handed on.
        splits: a schema with a target, and usable rows under "train" and "valid".
        size: of every part.
    """
    target = splits.schema.target
    assert target is not None  # the caller refuses data without one
    table = splits.table("train")
    few = len(table) < FEW
    inputs: dict[str, Any] = {}
    reasons = []
    for field in splits.schema.inputs:
        part = READERS[field.kind](field, splits, size)
        if few and "dropout" in part.encoder:
            part.encoder["dropout"] = 0.3
        inputs[field.name] = {"features": part.features, "encoder": part.encoder}
        reasons.append(Reason(field.name, _written(part), part.why))
    model: dict[str, Any] = {"inputs": inputs, "fusion": {"width": WIDTH[size]}}
    task, wording, why = _task(_kinds(splits), splits, size)
    model["task"] = task
    model["target"] = wording
    reasons.append(Reason(target.name, task["name"], why))
    train, pace = _pace(task["name"], len(table))
    reasons.append(pace)
    content = {"data": data.model_dump(), "model": model, "train": {**train, "steps": 1}}
    return Draft(parse(Recipe, content, "The recipe that was chosen"), tuple(reasons))


def _kinds(splits: Splits) -> set[str]:
    """The kinds of the inputs."""
    return {field.kind for field in splits.schema.inputs}


def _image(field: Field, splits: Splits, size: Size) -> Part:
    table, target = splits.table("train"), splits.schema.target
    pictures = [
        decode_image(media_source(cell, table.root, table.source.name), table.source.name)
        for cell in _some(table, field.name)
    ]
    height, width = (int(statistics.median(p.shape[axis] for p in pictures)) for axis in (0, 1))
    answered = target.kind if target is not None else ""
    dense = answered in ("mask", "boxes")
    scale = min(1.0, (DENSE if dense else SIDE)[size] / max(height, width))
    sides = [max(16, 4 * round(side * scale / 4)) for side in (height, width)]
    shapes = [p.shape[1] / p.shape[0] for p in pictures]
    alike = max(shapes) < 1.1 * min(shapes)
    features: dict[str, Any] = {"size": sides}
    why = f"pictures of about {width} x {height} pixels"
    if not alike and not dense:
        features["resize"] = "squash"
        why += "; of several shapes, so they are squashed and nothing is cut off"
    if all((p[..., 0] == p[..., 1]).all() and (p[..., 1] == p[..., 2]).all() for p in pictures):
        features["grey"] = True
        why += "; grey"
    if dense:
        features |= {
            "normalise": "dataset",
            "rotate": 0,
            "shift": 0.0 if answered == "mask" else 0.05,
            "crop": 0.3,
            "warped": 0.9,
        }
        return Part(features, {"name": "unet"}, why + "; every place is answered, so a U-Net")
    return Part(features, _convolutions(size, min(sides)), why)


def _convolutions(size: Size, side: int) -> dict[str, Any]:
    """A residual network whose last stage still sees four places or more a side."""
    stages = 2 if side <= 32 else 3
    first = CHANNELS[size]
    stem: dict[str, Any] = (
        {"stem": first // 2, "stem_stride": 4, "stem_kernel": 5} if side >= 90 else {"stem": first // 2}
    )
    widths = [first * 2**stage for stage in range(stages)]
    return {"name": "cnn", "widths": widths, "blocks": [1] * stages, "dropout": 0.0, **stem}


def _audio(field: Field, splits: Splits, size: Size) -> Part:
    table, target = splits.table("train"), splits.schema.target
    headers = [
        audio_header(audio_source(cell, table.root, table.source.name), table.source.name)
        for cell in _some(table, field.name)
    ]
    seconds = statistics.median(seconds for _, seconds in headers)
    rate = min(16_000, int(statistics.median(rate for rate, _ in headers)))
    why = f"clips of about {seconds:.1f} s at {rate:,} Hz"
    if target is not None and target.kind == "text":
        features = {"mels": 40, "sampling_rate": rate, "hop_length": rate // 80, "n_fft": 256 if rate <= 8_000 else 512}
        return Part(features, _recurrent(size, stack=4), why + "; a text follows them in time, so frame by frame")
    frames = 128 if seconds > 1.5 else 64
    hop = max(rate // 100, int(seconds * rate / frames))
    features = {"mels": 64 if rate > 8_000 else 48, "sampling_rate": rate, "hop_length": hop}
    return Part(features, _convolutions(size, 64), why + f"; about {frames} frames each")


def _recurrent(size: Size, **more: Any) -> dict[str, Any]:
    layers = {"small": 1, "medium": 2, "large": 3}[size] if "stack" in more else 1
    hidden = WIDTH[size]
    return {
        "name": "rnn",
        "cell": "gru",
        "hidden": hidden,
        "layers": layers,
        "width": 2 * hidden,
        "dropout": 0.0,
        **more,
    }


def _series(field: Field, splits: Splits, size: Size) -> Part:  # noqa: ARG001 - one signature for every kind
    target = splits.schema.target
    stack = 3 if target is not None and target.kind == "text" else 1
    return Part({}, _recurrent(size, stack=stack), f"{stack} steps are read as one" if stack > 1 else "step by step")


def _video(field: Field, splits: Splits, size: Size) -> Part:  # noqa: ARG001 - one signature for every kind
    features = {
        "frames": {"small": 4, "medium": 6, "large": 8}[size],
        "size": {"small": 32, "medium": 48, "large": 64}[size],
    }
    frame = _convolutions(size, features["size"])
    time = {"name": "rnn", "cell": "gru", "layers": 1, "hidden": WIDTH[size], "width": WIDTH[size]}
    encoder = {"name": "frames", "frame": frame, "time": time, "width": WIDTH[size], "together": 2}
    return Part(features, encoder, "frames two by two, for one alone says nothing of motion")


def _text(field: Field, splits: Splits, size: Size) -> Part:
    level, vocabulary, why = _level(field.name, splits)
    return Part({"level": level, "vocabulary": vocabulary}, _recurrent(size), why)


def _level(name: str, splits: Splits) -> tuple[str, int, str]:
    """How a text is cut: by how many of the validation rows' words were never seen in training."""
    cells = {
        split: [t for c in splits.table(split).column(name) if c is not None for t in references(c)]
        for split in ("train", "valid")
    }
    words = {split: [word for text in texts for word in text.lower().split()] for split, texts in cells.items()}
    known = set(words["train"])
    if len(words["train"]) <= 1.2 * len(cells["train"]):
        return "character", 4_000, "single words, so letter by letter"
    unseen = sum(word not in known for word in words["valid"]) / max(1, len(words["valid"]))
    target = splits.schema.target
    written = target is not None and target.kind == "text" and _kinds(splits) <= {"text", "category", "number"}
    if unseen > (0.01 if written else 0.15):
        vocabulary = 400 if len(known) < 10_000 else 4_000
        return (
            "subword",
            vocabulary,
            f"{unseen:.0%} of the words of validation rows were never seen, so pieces of words",
        )
    return "word", 4_000, f"{unseen:.1%} of the words of validation rows were never seen"


def _tabular(field: Field, splits: Splits, size: Size) -> Part:  # noqa: ARG001 - one signature for every kind
    encoder = {"name": "mlp", "hidden": WIDTH[size] // 2, "width": WIDTH[size] // 2}
    return Part({}, encoder, f"a {field.kind}")


READERS: dict[str, Callable[[Field, Splits, Size], Part]] = {
    "image": _image,
    "audio": _audio,
    "series": _series,
    "video": _video,
    "text": _text,
    "category": _tabular,
    "number": _tabular,
}


def _task(kinds: set[str], splits: Splits, size: Size) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The task's settings, those of a target text, and why."""
    target, few = splits.schema.target, len(splits.table("train")) < FEW
    assert target is not None
    dropout = 0.3 if few else 0.0
    if target.kind == "category":
        return {"name": "classify", "hidden": WIDTH[size], "dropout": dropout}, {}, "one of some labels"
    if target.kind == "number":
        return {"name": "regress", "hidden": WIDTH[size]}, {}, "a number"
    if target.kind != "text":
        why = {
            "mask": "a label for every pixel",
            "boxes": "boxes with labels",
            "audio": "a sound",
            "image": "a picture",
            "identity": "rows that belong together",
        }[target.kind]
        return {"name": TASKS[target.kind]}, {"size": DRAWN} if target.kind == "image" else {}, why
    cells = [references(cell) for cell in splits.table("train").column(target.name) if cell is not None]
    if kinds <= {"audio", "series"}:
        level = "word" if len({w for texts in cells for t in texts for w in t.split()}) < 50 else "character"
        return {"name": "transcribe", "score": "words", "dropout": dropout}, {"level": level}, "what was said"
    level, vocabulary, why = _level(target.name, splits)
    several = statistics.mean(len(texts) for texts in cells) > 1
    decoder = {
        "name": "transformer",
        "heads": 4,
        "layers": 2,
        "feedforward": 2 * WIDTH[size],
        "dropout": 0.1 if several else 0.0,
    }
    task = {"name": "write", "score": "cider" if several else "exact", "decoder": decoder}
    return task, {"level": level, "vocabulary": vocabulary}, f"a text; {why}"


def _pace(task: str, rows: int) -> tuple[dict[str, Any], Reason]:
    """Batch size and optimiser by task and rows."""
    batch = next((size for size, below in ((32, FEW), (64, 4 * FEW)) if rows < below), 128)
    if task in ("segment", "detect"):
        batch = 8
    elif task == "retrieve" and rows >= FEW:
        batch = 256  # every other row of a batch is a wrong answer to learn from
    batch = min(batch, max(2, rows))
    decay = 0.1 if rows < FEW else 0.01
    if task in ("write", "transcribe", "speak", "retrieve"):
        rate = 1e-3 if task in ("speak", "retrieve") else 2e-3
        optimizer: dict[str, Any] = {"name": "adamw", "lr": rate, "weight_decay": decay}
    else:
        optimizer = {"name": "muon", "lr": 0.003, "matrix_lr": 0.01, "weight_decay": decay}
    train = {"batch_size": batch, "optimizer": optimizer, "modality_dropout": 0.02}
    return train, Reason("optimiser", f"{optimizer['name']}, batches of {batch}", f"{rows:,} training rows")


def _some(table: Table, name: str) -> Sequence[Any]:
    """A few cells of a column, the same ones every time."""
    cells = [cell for cell in table.column(name) if cell is not None]
    return random.Random(0).sample(cells, min(LOOKED_AT, len(cells)))  # noqa: S311 - cells to look at, not secrets


def _written(part: Part) -> str:
    """The encoder and the most telling of its settings, in a few words."""
    name = part.encoder["name"]
    size = part.features.get("size")
    sides = f", {size[1]} x {size[0]} pixels" if isinstance(size, list) else ""
    widths = part.encoder.get("widths") or part.encoder.get("hidden")
    return (
        f"{name}{f' {widths}' if widths else ''}{sides}{f', {level}s' if (level := part.features.get('level')) else ''}"
    )
