"""Whatever happens to the files of a layout, they are read or refused by name."""

import json
from collections.abc import Iterator
from contextlib import suppress
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from triptych.data.layouts import read_layout
from triptych.errors import InputError

COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 8, "height": 6}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
}
VOC = (
    "<annotation><size><width>8</width><height>6</height></size><object><name>cat</name>"
    "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></object></annotation>"
)
LAYOUTS = {
    "boxes": {"annotations/instances_train.json": json.dumps(COCO)},
    "captions": {
        "annotations/captions_train.json": json.dumps(COCO | {"annotations": [{"image_id": 1, "caption": "a cat"}]})
    },
    "voc": {"Annotations/a.xml": VOC, "ImageSets/Main/train.txt": "a\n"},
    "flickr": {"a.token.txt": "a.jpg#0\tA cat .\na.jpg#1\tOne cat .\n", "a.trainImages.txt": "a.jpg\n"},
    "kaldi": {
        "wav.scp": "r1 a.wav\n",
        "text": "u1 ONE\nu2 TWO\n",
        "utt2spk": "u1 a\nu2 b\n",
        "segments": "u1 r1 0 0.5\nu2 r1 0.5 1\n",
    },
    "timit": {"TRAIN/DR1/FCJF0/SA1.TXT": "0 800 She had.\n", "TRAIN/DR1/FCJF0/SA1.PHN": "0 400 sh\n400 800 iy\n"},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layouts")
    for layout, files in LAYOUTS.items():
        for name, content in files.items():
            (folder / layout / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / layout / name).write_text(content)
        Image.effect_noise((8, 6), 60).save(folder / layout / "a.jpg")
        soundfile.write(folder / layout / "a.wav", np.zeros(8000), 8000)
    return folder


@st.composite
def damage(draw: st.DrawFn) -> tuple[str, str, bytes]:
    """A layout, a file of it, and that file with some bytes changed and its end cut off."""
    layout = draw(st.sampled_from(sorted(LAYOUTS)))
    name = draw(st.sampled_from(sorted(LAYOUTS[layout])))
    content = bytearray(LAYOUTS[layout][name].encode())
    for place, value in draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=4)):
        content[place] = value
    return layout, name, bytes(content[: draw(st.integers(0, len(content)))])


def test_whole_they_are_read(root):
    for layout in LAYOUTS:
        assert sum(map(len, read_layout(root / layout).values())) >= 1


def parts(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values in a JSON document."""
    yield path
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inner:
        yield from parts(value, (*path, key))


@pytest.mark.parametrize("value", [None, 3, "x", "", [], {}, True, float("nan"), [1], {"id": 1}, "\0", "../a.jpg"])
@pytest.mark.parametrize("layout", ["boxes", "captions"])
def test_coco_with_another_value_anywhere_is_read_or_refused(tmp_path, layout, value):
    Image.effect_noise((8, 6), 60).save(tmp_path / "a.jpg")
    (written,) = LAYOUTS[layout].values()
    for *path, last in filter(None, parts(json.loads(written))):
        content = json.loads(written)
        reduce(getitem, path, content)[last] = value
        (tmp_path / "a.json").write_text(json.dumps(content))
        with suppress(InputError):
            assert isinstance(read_layout(tmp_path / "a.json"), dict | None)


@given(damage())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_they_are_read_or_refused_and_nothing_else(root, damaged):
    layout, name, content = damaged
    file = root / layout / name
    try:
        file.write_bytes(content)
        with suppress(InputError):
            assert isinstance(read_layout(root / layout), dict | None)
    finally:
        file.write_text(LAYOUTS[layout][name])
