"""Packs of public data and pretrained backbones, read where they lie: `TRIPTYCH_DATA` and `TRIPTYCH_MODELS` name the folders."""

import csv
import gzip
import os
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import yamnet

PACKS = Path(os.environ.get("TRIPTYCH_DATA", "../shared/data"))
MODELS = Path(os.environ.get("TRIPTYCH_MODELS", "../shared/models"))
BACKBONES = {  # by their name on the hub; one that is not there is written from its copy where its recipe looks for it
    "google/mobilenet_v2_1.0_224": "mobilenetv2-imagenet",
    "runs/backbones/yamnet": "yamnet-audioset",
}
Row = Mapping[str, Any]


def pack(name: str) -> Path:
    """The path of a pack, or the end of the run with a message that says what is missing."""
    path = PACKS / name
    if not path.exists():
        raise SystemExit(f"{path} is not there. Set TRIPTYCH_DATA to the folder that holds {name}.")
    return path


def backbone(name: str) -> Path:
    """The folder of a copy of a pretrained backbone, or the end of the run with a message that says what is missing."""
    folder = MODELS / BACKBONES[name]
    if not folder.exists():
        raise SystemExit(f"{folder} is not there. Set TRIPTYCH_MODELS to the folder that holds a copy of {name}.")
    if (folder / "config.json").exists():
        return folder
    return Path(name) if (Path(name) / "config.json").exists() else yamnet.write(folder, Path(name))


def unpack(name: str, folder: Path) -> Path:
    """The files of a zip below `folder`, which is made whole or not at all."""
    if not folder.exists():
        stage = folder.with_name(f".{folder.name}")
        shutil.rmtree(stage, ignore_errors=True)
        with zipfile.ZipFile(pack(name)) as archive:
            archive.extractall(stage)
        stage.rename(folder)
    return folder


def inside(folder: Path, name: str) -> str:
    """The text of a gzipped file."""
    return gzip.decompress((folder / name).read_bytes()).decode()


def write_tables(folder: Path, schema: Mapping[str, str], **splits: Iterable[Row]) -> Path:
    """Write train.csv, valid.csv, test.csv and schema.yaml into `folder`; the schema says which columns there are."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(schema), extrasaction="ignore")
            table.writeheader()
            table.writerows(rows)
    (folder / "schema.yaml").write_text("".join(f"{column}: {kind}\n" for column, kind in schema.items()))
    return folder
