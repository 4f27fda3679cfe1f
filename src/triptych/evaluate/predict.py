"""`triptych predict`: answers for one sample typed on the command line, or for every row of a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from triptych import console
from triptych.data.audio import AudioFeatures
from triptych.data.decode import decode_image, media_source
from triptych.data.samples import Samples
from triptych.data.table import Table
from triptych.decoders.search import Sampler
from triptych.errors import InputError
from triptych.models.store import Loaded, read_model
from triptych.report.drawing import drawn, in_pixels
from triptych.tasks import Write, settled

Cells = dict[str, tuple[Any, Path, str]]  # by field: the cell, where relative paths start, and its place for messages

BATCH = 256
MADE = {"sound": ".wav", "picture": ".png"}  # what a model makes, and the files that keep it


@torch.no_grad()
def predict_fields(
    model: Path, fields: Sequence[str], out: Path | None = None, sampler: Sampler | None = None
) -> dict[str, Any]:
    """The answer to one sample of FIELD=VALUE words; media are paths. A field that is left out is absent.

    Args:
        model: a model folder.
        fields: the words.
        out: a .wav or .png file for the sound or the pictures that the model makes; a folder for masks, as class numbers, and for
            pictures with the mask or the boxes drawn over them.
        sampler: draws the answer of a model that writes token by token, whose likeliest text it is otherwise.

    Raises:
        InputError: a word without "=", an unknown field, or none at all; an `out` that exists, or that is not for this model; a
            sampler for a model that does not write.
    """
    loaded = _opened(model, sampler)
    known = loaded.model.fields
    given = given_fields(fields, known)
    cells = {name: (value, Path(), f"{name}={value}") for name, value in given.items()}
    answer = _answer(loaded, cells, out)
    answer = answer if loaded.processor.overlay is not None else _kept(answer, out)
    chance = f" ({answer['probability']:.1%})" if "probability" in answer else ""
    console.say(f"{answer['answer']}{chance}{' in ' + answer['file'] if 'file' in answer else ''}")
    return answer


def _opened(model: Path, sampler: Sampler | None) -> Loaded:
    loaded = read_model(model)
    if sampler is not None:
        if not isinstance(loaded.model.task, Write):
            raise InputError(
                "This model does not write token by token, so nothing can be drawn.",
                "Leave the options of drawing out.",
            )
        loaded.model.task.sampler = sampler
    return loaded


def _kept(answer: dict[str, Any], out: Path | None) -> dict[str, Any]:
    """The answer with what was made in a file, if one is named, and not in words."""
    words = {name: value for name, value in answer.items() if name not in ("sound", "rate", "picture")}
    if out is None:
        return words
    made = next((name for name in MADE if name in answer), None)
    if made is None:
        raise InputError("This model makes no sound or picture that could be kept.", "Leave --out out.")
    if out.suffix != MADE[made]:
        raise InputError(f"{out} is no place for a {made}.", f"Name a file that ends in {MADE[made]}.")
    if out.exists():
        raise InputError(f"{out} exists already.", "Name another file, or remove it first.")
    out.parent.mkdir(parents=True, exist_ok=True)
    if made == "sound":
        import soundfile

        soundfile.write(out, answer["sound"], answer["rate"])
    else:
        from PIL import Image

        Image.fromarray(answer["picture"]).save(out)
    return {**words, "file": str(out)}


def _answer(loaded: Loaded, cells: Cells, out: Path | None = None) -> dict[str, Any]:
    """The answer to one sample of (cell, root, where). A sound that is longer than what a writing model reads is read in pieces."""
    pieces: dict[str, list[Tensor]] = {}
    for name, feature in loaded.processor.features.items():
        if name not in cells:
            pieces[name] = [feature.absent()]
        elif isinstance(feature, AudioFeatures) and _hears_long_sounds(loaded):
            pieces[name] = feature.windows(*cells[name])
        else:
            pieces[name] = [feature.load(*cells[name])]
    count = max(map(len, pieces.values()))
    inputs = {
        name: loaded.processor.features[name].features(
            torch.stack([found[min(i, len(found) - 1)] for i in range(count)])
        )
        for name, found in pieces.items()
    }
    present = torch.tensor([[name in cells for name in pieces]] * count)
    outputs = settled(loaded.model.task, loaded.model(inputs, present).logits.numpy())
    answers = loaded.model.task.answers(outputs)
    if count == 1:
        return {**answers[0], **_over_picture(loaded, cells, outputs[0], answers[0], out)}
    return {"answer": " ".join(str(one["answer"]) for one in answers if one["answer"]), "pieces": count}


def given_fields(words: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """FIELD=VALUE words as values by field.

    Raises:
        InputError: a word without "=", an unknown field, or none at all.
    """
    given: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in known:
            raise InputError(f"{word!r} is not FIELD=VALUE for this model.", f"Its fields are: {', '.join(known)}.")
        given[name] = value
    if not given:
        raise InputError(
            "There is nothing to start from.", f"Give at least one of: {', '.join(f'{n}=...' for n in known)}."
        )
    return given


@torch.no_grad()
def predict_table(model: Path, data: Path, out: Path | None = None, sampler: Sampler | None = None) -> dict[str, Any]:
    """The answer to every row of every table of `data`; what it makes is kept in the folder `out`, as train-0.wav and so on,
    masks and drawings under the name of their picture.
    """
    loaded = _opened(model, sampler)
    splits = loaded.splits(data)
    rows = []
    for split, table in splits.tables.items():
        samples = Samples(table, loaded.processor, splits.schema)
        for start in range(0, len(samples), BATCH):
            chosen = range(start, min(start + BATCH, len(samples)))
            if _hears_long_sounds(loaded):
                answers = [_answer(loaded, _cells(loaded, table, row)) for row in chosen]
            else:
                batch = samples.batch(chosen)
                outputs = settled(loaded.model.task, loaded.model(batch.inputs, batch.presence).logits.numpy())
                answers = loaded.model.task.answers(outputs)
                if loaded.processor.overlay is not None:
                    for place, output, said in zip(chosen, outputs, answers, strict=True):
                        said.update(_over_picture(loaded, _cells(loaded, table, place), output, said, out))
            for row, answer in zip(chosen, answers, strict=True):
                suffix = next((MADE[name] for name in MADE if name in answer), "")
                file = None if out is None else out / f"{split}-{row}{suffix}"
                kept = answer if loaded.processor.overlay is not None else _kept(answer, file)
                rows.append({"split": split, "row": table.place(row), **kept})
    for told in rows:
        console.say(f"{told['row']}: {told['answer']}")
    return {"predictions": rows}


def _hears_long_sounds(loaded: Loaded) -> bool:
    """Whether the model writes what it hears, so that a long sound is to be read in pieces."""
    sounds = any(isinstance(feature, AudioFeatures) for feature in loaded.processor.features.values())
    return sounds and hasattr(loaded.model.task, "wording")


def _cells(loaded: Loaded, table: Table, row: int) -> Cells:
    cells = {name: table.column(name)[row] for name in loaded.processor.features}
    place = table.place(row)
    return {name: (cell, table.root, f"{place}, column {name}") for name, cell in cells.items() if cell is not None}


def _over_picture(
    loaded: Loaded, cells: Cells, output: np.ndarray, answer: dict[str, Any], out: Path | None
) -> dict[str, Any]:
    """What an answer over a picture is in that picture's pixels: boxes, and the files that were written of it."""
    from PIL import Image

    overlay = loaded.processor.overlay
    if overlay is None or overlay.picture not in cells:
        return {}
    cell, root, where = cells[overlay.picture]
    source = media_source(cell, root, where)
    pixels = decode_image(source, where)
    height, width = pixels.shape[:2]
    found: dict[str, Any] = {}
    if "boxes" in answer:
        found["boxes"] = in_pixels(answer["boxes"], overlay, width, height)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        stem = source.stem if isinstance(source, Path) else where
        pictures = {"drawn": drawn(pixels, overlay, loaded.model.task, output)}
        if overlay.kind == "mask":
            pictures["mask"] = overlay.frame.mask_out(output, width, height)
        for name, content in pictures.items():
            found[name] = str(out / f"{stem}-{name}.png")
            Image.fromarray(content).save(found[name])
    return found
