import json

import numpy as np
import pytest

from triptych.data.boxes import Boxes, parse_boxes, write_boxes
from triptych.errors import InputError

WHERE = "train.csv, line 17, column boxes"


def refused(function, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments)
    return str(caught.value)


def test_a_cell_as_json_text_and_as_a_list():
    items = [{"label": "cat", "box": [12, 40, 96.5, 128]}, {"label": "dog", "box": [0, 0, 50, 60]}]
    for cell in (json.dumps(items), items):
        boxes = parse_boxes(cell, WHERE)
        assert boxes.labels == ("cat", "dog")
        assert boxes.corners.tolist() == [[12, 40, 96.5, 128], [0, 0, 50, 60]]
        assert boxes.ids(["bird", "cat", "dog"], WHERE).tolist() == [1, 2]
    assert parse_boxes("[]", WHERE).corners.shape == (0, 4)


def test_what_is_written_is_read():
    cell = write_boxes([("Bär", [1, 2, 3.14159, 4])])
    assert cell == '[{"label": "Bär", "box": [1.0, 2.0, 3.14, 4.0]}]'
    assert parse_boxes(cell, WHERE).labels == ("Bär",)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ('[{"label": "cat"', f"{WHERE}: the boxes are not JSON (Expecting ',' delimiter: line 1 column 17 (char 16))."),
        ('{"label": "cat"}', f'{WHERE}: \'{{"label": "cat"}}\' is not a list of boxes.'),
        ('[{"box": [0, 0, 1, 1]}]', f"{WHERE}: {{'box': [0, 0, 1, 1]}} has no label."),
        ('[{"label": "cat", "box": [0, 0, 1]}]', f"{WHERE}: the box of 'cat' is [0, 0, 1], not four numbers."),
        (
            '[{"label": "cat", "box": [0, 0, 1, "1"]}]',
            f"{WHERE}: the box of 'cat' is [0, 0, 1, '1'], not four numbers.",
        ),
        (
            '[{"label": "cat", "box": [0, NaN, 1, 1]}]',
            f"{WHERE}: the box 'cat' at [0, nan, 1, 1] holds a number that is not finite.",
        ),
        ('[{"label": "cat", "box": [5, 0, 5, 9]}]', f"{WHERE}: the box 'cat' at [5, 0, 5, 9] has no area."),
        ('[{"label": "cat", "box": [5, 9, 7, 2]}]', f"{WHERE}: the box 'cat' at [5, 9, 7, 2] has no area."),
    ],
)
def test_bad_boxes_name_the_row_and_the_box(cell, message):
    assert refused(parse_boxes, cell, WHERE).startswith(message)


def test_a_box_over_the_edge_is_cut_and_one_outside_is_refused():
    boxes = Boxes(("cat", "dog"), np.array([[-3, 10, 30, 40], [0, 0, 100, 50]], np.float32))
    assert boxes.within(100, 36, WHERE).corners.tolist() == [[0, 10, 30, 36], [0, 0, 100, 36]]
    assert refused(boxes.within, 100, 20, WHERE) == (
        f"{WHERE}: the box 'cat' at [-3, 10, 30, 40] lies outside the picture, which has 100 x 20 pixels. "
        "Mend the box, or leave the row out."
    )
    away = Boxes(("cat",), np.array([[200, 10, 230, 40]], np.float32))
    assert "lies outside the picture" in refused(away.within, 100, 100, WHERE)


def test_an_unknown_label_is_named():
    boxes = Boxes(("cat", "cow"), np.array([[0, 0, 1, 1], [0, 0, 1, 1]], np.float32))
    assert refused(boxes.ids, ["cat", "dog"], WHERE) == (
        f"{WHERE}: the label 'cow' is not among the 2 labels of the training rows. "
        "Add training rows with it or leave the row out."
    )
