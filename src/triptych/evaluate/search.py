"""`triptych search`: what in a table belongs to a picture, a sound or some words.

One tower of a retrieval model reads every cell of the searched column once; its vectors are kept as an artifact of that model and
table. A question is then one run of the other tower and the nearest vectors by cosine: all are compared while they are few, and
beyond that a graph of neighbours is walked (Malkov & Yashunin, Efficient and robust approximate nearest neighbor search using
Hierarchical Navigable Small World graphs, TPAMI 2018; by faiss).
"""

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from triptych import artifact, console
from triptych.data.processor import Processor
from triptych.data.splits import Splits
from triptych.data.table import Table
from triptych.engines.openvino import OpenVINOEngine
from triptych.errors import InputError
from triptych.evaluate.predict import given_fields
from triptych.models.fusion_model import FusionModel
from triptych.models.store import Loaded, read_model

VECTORS, GRAPH = "vectors.safetensors", "neighbours.faiss"
COMPARED = 50_000  # vectors that a core still compares one by one within some milliseconds
LINKS, WIDE = 32, 128  # of the graph: links a vector, and candidates looked at when it is built and asked
BATCH = 64

Vectors = Float[np.ndarray, "cells width"]
Nearest = Callable[[Float[np.ndarray, "1 width"], int], tuple[Float[np.ndarray, " found"], Int[np.ndarray, " found"]]]


class Found(NamedTuple):
    """A cell of the searched column, where it first stands."""

    table: Table
    row: int
    cell: Any

    @property
    def place(self) -> str:
        """As "test.csv, line 17"."""
        return self.table.place(self.row)


class Tower:
    """One encoder of a retrieval model and its projector, in OpenVINO.

    Raises:
        InputError: the model does not retrieve.
    """

    def __init__(self, loaded: Loaded, field: str) -> None:
        self.field, self.features = field, loaded.processor.features[field]
        model = tower(loaded.model, field)
        names = dict(model.named_parameters())
        quantized = {name: weight for name, weight in loaded.quantized.items() if name in names}
        example = self.features.features(torch.stack([self.features.absent()] * 2))
        self.run = OpenVINOEngine(model, ({field: example}, _present(2)), quantized)

    def __call__(self, cells: Sequence[Tensor]) -> Vectors:
        """The unit vectors of loaded cells."""
        x = self.features.features(torch.stack(list(cells)))
        return self.run({self.field: x}, _present(len(x)))[:, 0]


def _present(rows: int) -> Tensor:
    return torch.ones(rows, 1, dtype=torch.bool)


def tower(model: FusionModel, field: str) -> FusionModel:
    """A copy of a retrieval model that reads one of its inputs alone."""
    if model.reads != "modalities":
        raise InputError(
            f"The model's task is {model.config.task['name']!r}, which gives answers; it cannot search.",
            "Train one whose target is an identity: `photo_id: identity:target`.",
        )
    place = model.fields.index(field)
    alone = copy.deepcopy(model)
    alone.encoders = nn.ModuleDict({field: alone.encoders[field]})
    alone.projectors = nn.ModuleDict({field: alone.projectors[field]})
    alone.absent = nn.Parameter(alone.absent[place : place + 1].detach())
    return alone


def search(
    model: Path, data: Path, words: Sequence[str], *, column: str | None = None, top: int = 10, out: Path | None = None
) -> dict[str, Any]:
    """The cells of a table that are most like one cell.

    Args:
        model: a folder with a model whose task is to retrieve.
        data: what is searched: all rows of a table, or of a folder of tables.
        words: one FIELD=VALUE.
        column: that is searched; by default the model's other one.
        top: how many are found.
        out: the folder of the vectors; by default one beside the model, named for the model, the data and the column.

    Raises:
        InputError: not one FIELD=VALUE, an unknown column, a model that cannot search, or a table that lacks the column.
        ArtifactError: `out` holds the vectors of another model or table.
    """
    loaded = read_model(model)
    splits = loaded.splits(data)
    given = given_fields(words, loaded.model.fields)
    if len(given) != 1:
        raise InputError(f"A search starts from one field, not from {' and '.join(given)}.", "Leave the others out.")
    ((field, value),) = given.items()
    asking = Tower(loaded, field)
    column = column or next(name for name in loaded.model.fields if name != field)
    if column not in loaded.model.fields:
        raise InputError(f"The model has no field {column!r}.", f"Its fields are: {', '.join(loaded.model.fields)}.")
    cells = gallery(splits, column)
    identity = {"kind": "vectors", "model": loaded.sha256, "data": splits.sha256, "column": column}
    name = f"{loaded.sha256[:8]}-{splits.sha256[:8]}-{column}"
    folder = out or model.with_name(f"{model.name}.vectors") / name
    vectors = embedded(folder, identity, cells, asking if column == field else Tower(loaded, column), loaded.processor)
    nearest = index(folder, vectors)
    cell = loaded.processor.features[field].load(value, Path(), f"{field}={value}")
    asking([cell])  # the first run compiles the tower
    began = time.perf_counter()
    similarities, places = nearest(asking([cell]), min(top, len(cells)))
    milliseconds = (time.perf_counter() - began) * 1e3
    rows = [
        {"rank": rank, "similarity": float(similarity), "place": cells[place].place, column: cells[place].cell}
        for rank, (similarity, place) in enumerate(zip(similarities, places.tolist(), strict=True), 1)
    ]
    shown = [[row["rank"], f"{row['similarity']:.3f}", row["place"], str(row[column])] for row in rows]
    console.table(f"{column} for {field}={value}", ["rank", "similarity", "place", column], shown)
    console.say(f"found among {len(cells):,} in {milliseconds:.1f} ms, reading {field} included")
    return {"found": rows, "searched": len(cells), "milliseconds": milliseconds, "vectors": str(folder)}


def gallery(splits: Splits, column: str) -> list[Found]:
    """The cells of a column, each once, where it first stands.

    Raises:
        InputError: no table has the column, or it is empty.
    """
    found: dict[Any, Found] = {}
    for table in splits.tables.values():
        for row, cell in enumerate(table.column(column) if column in table.names else []):
            if cell is not None:
                key = cell if isinstance(cell, str | int | float) else (table.sha256, row)
                found.setdefault(key, Found(table, row, cell))
    if not found:
        raise InputError(
            f"The data has no column {column!r} with cells in it, which is searched.", "Bring a table with it."
        )
    return list(found.values())


def embedded(
    folder: Path, identity: dict[str, str], cells: Sequence[Found], run: Tower, processor: Processor
) -> Vectors:
    """The vectors of all cells, from `folder` or made and kept there; with a graph of neighbours where they are many."""
    if not artifact.existing(folder, identity):
        features, parts = processor.features[run.field], []
        with console.progress(f"read {run.field}", len(cells), unit="cell") as advance:
            for start in range(0, len(cells), BATCH):
                some = cells[start : start + BATCH]
                parts.append(run([features.load(c.cell, c.table.root, f"{c.place}, column {run.field}") for c in some]))
                advance(len(some))
        vectors = np.concatenate(parts)
        with artifact.publish(folder, identity) as staging:
            safetensors.numpy.save_file({"vectors": vectors}, staging / VECTORS)
            if len(vectors) > COMPARED:
                faiss = _faiss(len(vectors))
                faiss.write_index(neighbours(vectors), str(staging / GRAPH))
    return safetensors.numpy.load_file(folder / VECTORS)["vectors"]


def index(folder: Path, vectors: Vectors) -> Nearest:
    """What finds the nearest vectors: all of them compared, or the graph of neighbours."""
    if len(vectors) <= COMPARED:

        def compare(question: Float[np.ndarray, "1 width"], count: int) -> tuple[np.ndarray, np.ndarray]:
            cosines = vectors @ question[0]
            order = np.argsort(-cosines, kind="stable")[:count]
            return cosines[order], order

        return compare
    graph = _faiss(len(vectors)).read_index(str(folder / GRAPH))

    def walk(question: Float[np.ndarray, "1 width"], count: int) -> tuple[np.ndarray, np.ndarray]:
        cosines, places = graph.search(question, count)
        return cosines[0], places[0]

    return walk


def neighbours(vectors: Vectors) -> Any:
    """A faiss graph of neighbours by cosine."""
    faiss = _faiss(len(vectors))
    graph = faiss.IndexHNSWFlat(vectors.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = graph.hnsw.efSearch = WIDE
    graph.add(vectors)
    return graph


def _faiss(cells: int) -> Any:
    try:
        import faiss
    except ImportError as error:
        raise InputError(
            f"To search {cells:,} cells within milliseconds takes faiss, which is not installed.",
            "Run `pip install triptych[search]`.",
        ) from error
    return faiss
