"""`triptych explain`: what each field gave to the answers, and where in it the model found them, as one page."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int

from triptych import artifact, console
from triptych.data.samples import Samples
from triptych.errors import InputError
from triptych.evaluate.explain.attention import fusion_attention
from triptych.evaluate.explain.contribution import Contribution, contribution
from triptych.evaluate.explain.gradcam import BLANKED, Gradients, blanked, gradcam
from triptych.evaluate.explain.grids import find_grid
from triptych.evaluate.explain.look import look
from triptych.evaluate.explain.subject import Subject, fuse
from triptych.models.store import Loaded, read_model
from triptych.report import explained
from triptych.report.environment import cpu_name, versions
from triptych.report.lit import looks
from triptych.report.media import shown
from triptych.report.schema import Answer, Environment, SampleField
from triptych.structure import Settings

BATCH = 256
CHECKED = 200  # rows on which maps are checked


class Asked(Settings):
    """What the page is to show.

    Attributes:
        rows: how many, evenly spaced.
        worst: those with the least probability for the truth instead.
        split: of which table.
        gradients: of the maps, as `gradcam` takes them.
    """

    rows: int = 12
    worst: bool = False
    split: str = "test"
    gradients: Gradients = "own"


def explain_model(model: Path, data: Path, out: Path, asked: Asked, *, command: str) -> dict[str, Any]:
    """Write explanation.html and explanation.json into the folder `out`, which is new or was written by the same call.

    Raises:
        InputError: no rows, or `worst` of a table or a task without a probability for the truth.
        ArtifactError: `out` holds something else.
    """
    if asked.rows < 1:
        raise InputError(f"{asked.rows} rows cannot be shown.", "Give --rows a number above 0.")
    loaded = read_model(model)
    splits = loaded.splits(data)
    samples = Samples(splits.table(asked.split), loaded.processor, splits.schema)
    identity = {"model": loaded.sha256, "data": splits.sha256, **asked.model_dump()}
    page = out / "explanation.html"
    if not artifact.existing(out, identity):
        with console.stage(f"explain {len(samples):,} rows"):
            explanation = explain(loaded, samples, asked, title=f"Seeing why {model} answers", command=command)
        with artifact.publish(out, identity) as staging:
            explained.write_explanation(explanation, staging)
        console.say(explanation.headline())
    console.say(f"the page is {page}")
    return {"page": str(page), **asked.model_dump()}


def explain(loaded: Loaded, samples: Samples, asked: Asked, *, title: str, command: str) -> explained.Explanation:
    """What every field gave to every row, and the chosen rows with all that can be seen in them."""
    numeric = loaded.processor.labels is None
    if asked.worst and (numeric or samples.labels is None):
        raise InputError(
            "The worst rows are those with the least probability for the truth.", "Give rows with classes."
        )
    given = _contributions(loaded, samples)
    chosen = np.argsort(given.all, kind="stable")[: asked.rows] if asked.worst else _spaced(len(samples), asked.rows)
    return explained.Explanation(
        title=title,
        command=command,
        unit="number" if numeric else "probability",
        rows=len(samples),
        none=float(given.none.mean()),
        all=float(given.all.mean()),
        blanked_share=BLANKED,
        gradients=asked.gradients,
        overview=_overview(loaded, samples, given, asked.gradients, numeric=numeric),
        shown=_rows(loaded, samples, given, chosen.tolist(), asked.gradients),
        environment=Environment(cpu=cpu_name(), threads=torch.get_num_threads(), versions=versions()),
    )


def _spaced(rows: int, count: int) -> Int[np.ndarray, " count"]:
    """At most `count` of the rows, evenly spaced."""
    return np.linspace(0, rows - 1, min(count, rows)).round().astype(int)


def _contributions(loaded: Loaded, samples: Samples) -> Contribution:
    """Of all rows."""
    parts = []
    with console.progress("contributions", len(samples), unit="row") as advance:
        for start in range(0, len(samples), BATCH):
            batch = samples.batch(range(start, min(start + BATCH, len(samples))))
            parts.append(contribution(Subject.of(loaded.model, batch)))
            advance(len(batch))
    return Contribution(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _overview(
    loaded: Loaded, samples: Samples, given: Contribution, gradients: Gradients, *, numeric: bool
) -> tuple[explained.Overview, ...]:
    checked = _spaced(len(samples), CHECKED)
    subject = Subject.of(loaded.model, samples.batch(checked.tolist()))
    found = []
    for place, name in enumerate(loaded.model.fields):
        shares = given.shapley[:, place]
        grid, check = _check(subject, name, given.all[checked], gradients)
        found.append(
            explained.Overview(
                name=name,
                share=float((np.abs(shares) if numeric else shares).mean()),
                shares=tuple(shares.round(4).tolist()),
                without=float(given.without[:, place].mean()),
                grid=grid,
                blanked=None if numeric else check,  # a blank may move a number either way
            )
        )
    return tuple(found)


def _check(
    subject: Subject, name: str, whole: Float64[np.ndarray, " rows"], gradients: Gradients
) -> tuple[tuple[int, int] | None, explained.Blanked | None]:
    """The grid of a field's maps, and what it costs to blank what they show; None where there are no maps."""
    if subject.kind(name) not in ("image", "audio"):
        return None, None
    grid = find_grid(subject, name)
    if grid is None:
        return None, None
    heat = gradcam(subject, name, grid, gradients)
    random = torch.rand(heat.shape, generator=torch.Generator().manual_seed(0))
    shown_cost, random_cost = (float(blanked(subject, name, maps).mean()) for maps in (heat, random))
    return (grid.rows, grid.columns), explained.Blanked(whole=float(whole.mean()), shown=shown_cost, random=random_cost)


def _rows(
    loaded: Loaded, samples: Samples, given: Contribution, chosen: list[int], gradients: Gradients
) -> tuple[explained.Row, ...]:
    """Everything about the rows that are shown."""
    model, table, fields = loaded.model, samples.table, loaded.processor.features
    subject = Subject.of(model, samples.batch(chosen))
    with torch.no_grad():
        answers = model.task.answers(fuse(model, subject.vectors, subject.batch.presence).numpy())
    seen = {name: look(subject, name, gradients) for name in model.fields}
    asking = fusion_attention(subject)
    found = []
    for place, row in enumerate(chosen):
        cells, where = table.row(row), table.place(row)
        parts = [
            explained.Part(
                field=SampleField(
                    name=name,
                    kind=fields[name].kind,
                    value=shown(fields[name].kind, cells[name], table.root, where),
                    looks=tuple(
                        looks(fields[name], cells[name], table.root, where, seen[name], place, "what speaks for it")
                    ),
                ),
                without=float(given.without[row, m]),
                share=float(given.shapley[row, m]),
            )
            for m, name in enumerate(model.fields)
        ]
        answer = answers[place]
        found.append(
            explained.Row(
                place=where,
                truth=None if samples.labels is None else model.task.truth(float(samples.labels[row])),
                answer=Answer(label=_said(answer["answer"]), probability=answer.get("probability")),
                none=float(given.none[row]),
                all=float(given.all[row]),
                parts=tuple(parts),
                attention=() if asking is None else tuple(map(tuple, asking[place].tolist())),
            )
        )
    return tuple(found)


def _said(answer: str | float) -> str:
    return answer if isinstance(answer, str) else f"{answer:.6g}"
