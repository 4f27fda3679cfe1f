from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from triptych.data.mask import read_mask
from triptych.errors import InputError

WHERE = "train.csv, line 17, column mask"
COLOURS = {"sky": [128, 128, 128], "road": [128, 64, 128], "void": [0, 0, 0]}
IDS = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)


def refused(*arguments, **options) -> str:
    with pytest.raises(InputError) as caught:
        read_mask(*arguments, **options)
    return str(caught.value)


def saved(folder: Path, image: Image.Image, name: str = "m.png") -> str:
    image.save(folder / name)
    return name


def coloured() -> Image.Image:
    return Image.fromarray(np.array(list(COLOURS.values()), np.uint8)[IDS])


def test_single_channels_hold_ids(tmp_path):
    mask = read_mask(saved(tmp_path, Image.fromarray(IDS)), tmp_path, WHERE, size=(3, 2))
    assert (mask.dtype, mask.tolist()) == (np.int32, IDS.tolist())
    many = IDS.astype(np.uint16) * 300
    assert read_mask(saved(tmp_path, Image.fromarray(many)), tmp_path, WHERE).tolist() == many.tolist()
    one = Image.fromarray(IDS == 1)
    assert read_mask(saved(tmp_path, one), tmp_path, WHERE).tolist() == (IDS == 1).astype(int).tolist()


def test_a_palette_holds_ids_whatever_it_shows(tmp_path):
    image = Image.fromarray(IDS).convert("P")
    image.putdata(IDS.flatten().tolist())
    image.putpalette([colour for name in COLOURS for colour in COLOURS[name]])
    name = saved(tmp_path, image)
    assert read_mask(name, tmp_path, WHERE).tolist() == IDS.tolist()
    backwards = dict(reversed(COLOURS.items()))
    assert read_mask(name, tmp_path, WHERE, colours=backwards).tolist() == (2 - IDS).tolist()


def test_colours_stand_for_classes_in_the_order_of_their_table(tmp_path):
    name = saved(tmp_path, coloured())
    assert read_mask(name, tmp_path, WHERE, colours=COLOURS).tolist() == IDS.tolist()
    assert refused(name, tmp_path, WHERE) == (
        f"{WHERE}: m.png is a colour picture (RGB), and no table says which class a colour is. "
        "Give `colours`, as `road: [128, 64, 128]`, or save the ids as a single channel."
    )
    assert refused(name, tmp_path, WHERE, colours={"sky": [128, 128, 128], "road": [128, 64, 128]}) == (
        f"{WHERE}: m.png has the colour [0, 0, 0] (first at x 2, y 0; 2 such pixels), which is no class. "
        "Add it to `colours`, or mend the mask."
    )


def test_another_size_than_the_picture(tmp_path):
    assert refused(saved(tmp_path, Image.fromarray(IDS)), tmp_path, WHERE, size=(30, 20)) == (
        f"{WHERE}: the mask m.png has 3 x 2 pixels, its picture 30 x 20. "
        "Bring both to one size (a mask by its nearest pixels, which mixes no ids)."
    )


def test_what_mixes_ids_or_is_not_there(tmp_path):
    name = saved(tmp_path, Image.fromarray(IDS), "m.jpg")
    assert refused(name, tmp_path, WHERE) == (
        f"{WHERE}: m.jpg is a JPEG, which mixes neighbouring ids. Save masks as PNG."
    )
    assert f"{WHERE}: there is no file " in refused("no.png", tmp_path, WHERE)
    (tmp_path / "text.png").write_text("no picture")
    assert "text.png cannot be read as an image (it is not an image)." in refused("text.png", tmp_path, WHERE)


def test_a_table_of_colours_that_cannot_be(tmp_path):
    name = saved(tmp_path, coloured())
    assert "The classes 'a' and 'b' have one colour." in refused(
        name, tmp_path, WHERE, colours={"a": [1, 2, 3], "b": [1, 2, 3]}
    )
    assert refused(name, tmp_path, WHERE, colours={"a": [1, 2, 300]}) == (
        "The colour of 'a' is [1, 2, 300]. Write red, green and blue from 0 to 255."
    )
