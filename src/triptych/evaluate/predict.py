"""`triptych predict`: answers for one sample typed on the command line, or for every row of a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from triptych import console
from triptych.data.samples import Samples
from triptych.data.splits import read_splits
from triptych.errors import InputError
from triptych.models.store import read_model


@torch.no_grad()
def predict_fields(model: Path, fields: Sequence[str]) -> dict[str, Any]:
    """The answer to one sample of FIELD=VALUE words; media are paths. A field that is left out is absent.

    Raises:
        InputError: a word without "=", an unknown field, or none at all.
    """
    loaded = read_model(model)
    known = loaded.model.fields
    given: dict[str, str] = {}
    for word in fields:
        name, equals, value = word.partition("=")
        if not equals or name not in known:
            raise InputError(f"{word!r} is not FIELD=VALUE for this model.", f"Its fields are: {', '.join(known)}.")
        given[name] = value
    if not given:
        raise InputError(
            "There is nothing to predict from.", f"Give at least one of: {', '.join(f'{n}=...' for n in known)}."
        )
    inputs, present = {}, []
    for name in known:
        feature = loaded.processor.features[name]
        cell = feature.load(given[name], Path(), f"{name}={given[name]}") if name in given else feature.absent()
        inputs[name] = feature.features(cell.unsqueeze(0))
        present.append(name in given)
    logits = loaded.model(inputs, torch.tensor([present])).logits
    answer = loaded.model.task.answers(logits.numpy())[0]
    chance = f" ({answer['probability']:.1%})" if "probability" in answer else ""
    console.say(f"{answer['answer']}{chance}")
    return answer


@torch.no_grad()
def predict_table(model: Path, data: Path) -> dict[str, Any]:
    """The answer to every row of every table of `data`."""
    loaded = read_model(model)
    splits = read_splits(data)
    rows = []
    for split, table in splits.tables.items():
        samples = Samples(table, loaded.processor, splits.schema)
        for start in range(0, len(samples), 256):
            batch = samples.batch(range(start, min(start + 256, len(samples))))
            answers = loaded.model.task.answers(loaded.model(batch.inputs, batch.presence).logits.numpy())
            rows += [{"split": split, "row": table.place(start + i), **answer} for i, answer in enumerate(answers)]
    for row in rows:
        console.say(f"{row['row']}: {row['answer']}")
    return {"predictions": rows}
