"""Masks and boxes as targets: what the model is asked for, and what is refused."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from triptych.data.frame import VOID
from triptych.data.processor import Processor
from triptych.data.samples import Samples
from triptych.data.schema import guess
from triptych.data.table import read_table
from triptych.data.target import Target
from triptych.errors import InputError

SIZE = {"features": {"photo": {"size": (12, 16), "resize": "crop"}}}


def write(folder, masks=(), boxes=None, sizes=None):
    """Photos of 24 x 18 pixels with masks or boxes, as train.csv; the table and its schema."""
    cells = []
    for i, mask in enumerate(masks or boxes):
        width, height = sizes[i] if sizes else (24, 18)
        Image.fromarray(np.full((height, width, 3), 40 + i, dtype=np.uint8)).save(folder / f"{i}.png")
        if masks:
            Image.fromarray(mask).save(folder / f"{i}_mask.png")
        cells.append((f"{i}.png", f"{i}_mask.png" if masks else json.dumps(mask)))
    with (folder / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("photo", "answer"), *cells])
    table = read_table(folder / "train.csv")
    return table, guess(table, overrides={"photo": "image:input", "answer": f"{'mask' if masks else 'boxes'}:target"})


def fitted(table, schema, **target):
    return Processor.fit(table, schema, SIZE["features"], target)


def halves(left, right, height=18, width=24):
    mask = np.full((height, width), left, dtype=np.uint8)
    mask[:, width // 2 :] = right
    return mask


def box(label, *corners):
    return {"label": label, "box": list(corners)}


def test_the_ids_of_the_training_masks_are_the_classes(tmp_path):
    processor = fitted(*write(tmp_path, [halves(7, 2), halves(2, 255)]))
    assert processor.target.labels == ("2", "7")
    labels = Samples(*parts(tmp_path, processor)).labels
    assert labels.dtype == np.uint8
    assert labels.shape == (2, 18, 24)
    assert (labels[0, 5, 3], labels[0, 5, 20]) == (1, 0)
    assert labels[1, 5, 20] == VOID


def parts(folder, processor):
    table = read_table(folder / "train.csv")
    kind = processor.target.kind
    return table, processor, guess(table, overrides={"photo": "image:input", "answer": f"{kind}:target"})


def test_named_classes_and_void(tmp_path):
    processor = fitted(*write(tmp_path, [halves(0, 3), halves(1, 1)]), classes=["sky", "road", "car"], void=[3])
    labels = Samples(*parts(tmp_path, processor)).labels
    assert processor.target.labels == ("sky", "road", "car")
    assert np.unique(labels).tolist() == [0, 1, VOID]


def test_colours_are_classes(tmp_path):
    red, blue = np.zeros((18, 24, 3), np.uint8), np.zeros((18, 24, 3), np.uint8)
    red[..., 0], blue[..., 2] = 200, 100
    processor = fitted(*write(tmp_path, [red, blue]), colours={"sky": (0, 0, 100), "road": (200, 0, 0)})
    assert processor.target.labels == ("sky", "road")
    labels = Samples(*parts(tmp_path, processor)).labels
    assert [np.unique(mask).tolist() for mask in labels] == [[1], [0]]


def test_a_target_survives_its_file(tmp_path):
    processor = fitted(*write(tmp_path, [halves(0, 1)]), classes=["sky", "road"])
    processor.save(tmp_path)
    assert Processor.load(tmp_path).target == processor.target
    assert Target(**json.loads(json.dumps(processor.target.model_dump(mode="json")))) == processor.target


def test_masks_of_other_sizes_are_brought_to_the_first_ones(tmp_path):
    sizes = [(24, 18), (48, 36), (48, 18)]
    masks = [halves(0, 1), halves(0, 1, 36, 48), halves(0, 1, 18, 48)]
    processor = fitted(*write(tmp_path, masks, sizes=sizes))
    labels = Samples(*parts(tmp_path, processor)).labels
    assert labels.shape == (3, 18, 24)
    assert (labels == labels[0]).all()


@pytest.mark.parametrize(
    ("masks", "sizes", "target", "message"),
    [
        ([halves(0, 1)], [(12, 9)], {}, r"line 2, column answer: the mask 0_mask\.png has 24 x 18 pixels, its picture 12 x 9"),
        ([halves(0, 9)], None, {"classes": ["a", "b"]}, r"line 2, column answer: the mask has the id 9 \(first at x 12, y 0\)"),
        ([halves(0, 1)], None, {"clases": ["a"]}, r"target answer does not fit: clases is not a setting \(did you mean classes"),
        ([halves(0, 1)], None, {"picture": "foto"}, r"it is not clear which\. Name it as `picture` under model\.target: photo"),
        ([np.zeros((18, 24, 3), np.uint8)], None, {}, r"0_mask\.png is a colour picture"),
    ],
)  # fmt: skip
def test_masks_that_cannot_be_learned_are_refused(tmp_path, masks, sizes, target, message):
    table, schema = write(tmp_path, masks, sizes=sizes)
    with pytest.raises(InputError, match=message):
        Samples(table, fitted(table, schema, **target), schema)


def test_boxes_are_shares_of_what_is_seen(tmp_path):
    told = [[box("cat", 6, 9, 18, 18)], [], [box("ant", 0, 0, 24, 18), box("cat", -2, 0, 12, 9)]]
    processor = fitted(*write(tmp_path, boxes=told))
    assert processor.target.labels == ("ant", "cat")
    labels = Samples(*parts(tmp_path, processor)).labels
    assert labels.dtype == np.float32
    np.testing.assert_allclose(labels[0], [[1, 0.25, 0.5, 0.75, 1.0], [-1, 0, 0, 0, 0]])
    assert (labels[1, :, 0] == -1).all()
    np.testing.assert_allclose(labels[2], [[0, 0, 0, 1, 1], [1, 0, 0, 0.5, 0.5]])


def test_boxes_beside_what_is_seen_are_left_out(tmp_path):
    told = [[box("cat", 0, 0, 10, 18), box("cat", 20, 5, 30, 15)]]  # of a photo of 72 x 18, of which 24 are seen
    processor = fitted(*write(tmp_path, boxes=told, sizes=[(72, 18)]))
    assert (Samples(*parts(tmp_path, processor)).labels[0, :, 0] >= 0).sum() == 1


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ([box("cat", 30, 2, 40, 9)], r"train\.csv, line 2, column answer: the box 'cat' at \[30, 2, 40, 9\] lies outside the picture"),
        ([box("cat", 5, 2, 5, 9)], r"line 2, column answer: the box 'cat' at \[5, 2, 5, 9\] has no area"),
    ],
)  # fmt: skip
def test_boxes_that_cannot_be_right_are_refused(tmp_path, told, message):
    table, schema = write(tmp_path, boxes=[told])
    with pytest.raises(InputError, match=message):
        Samples(table, fitted(table, schema), schema)


def test_a_label_that_training_did_not_have_is_refused(tmp_path):
    processor = fitted(*write(tmp_path, boxes=[[box("cat", 0, 0, 9, 9)]]))
    table, schema = write(tmp_path, boxes=[[box("dog", 0, 0, 9, 9)]])
    with pytest.raises(InputError, match=r"line 2, column answer: the label 'dog' is not among the 1 labels"):
        Samples(table, processor, schema)


def test_a_mask_without_its_picture_is_refused(tmp_path):
    write(tmp_path, [halves(0, 1)])
    (tmp_path / "train.csv").write_text("photo,answer\n,0_mask.png\n0.png,0_mask.png\n")
    table = read_table(tmp_path / "train.csv")
    schema = guess(table, overrides={"photo": "image:input", "answer": "mask:target"})
    with pytest.raises(InputError, match=r"line 2, column answer: there is no photo that it lies over"):
        fitted(table, schema)


def test_picture_and_mask_move_together(tmp_path):
    """Photos that show their masks: brightness is the class. After augmentation it still is."""
    rng = np.random.default_rng(0)
    masks = [np.kron(rng.integers(0, 2, (3, 4)), np.ones((6, 6))).astype(np.uint8) for _ in range(8)]
    table, schema = write(tmp_path, masks)
    for i, mask in enumerate(masks):
        Image.fromarray(np.repeat(mask[..., None] * 200 + 20, 3, axis=2)).save(tmp_path / f"{i}.png")
    still = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
    features = {
        "photo": {"size": (18, 24), "flip": True, "rotate": 20, "shift": 0.1, "crop": 0.3, "warped": 1.0} | still
    }
    samples = Samples(table, Processor.fit(table, schema, features), schema)
    plain = samples.batch(range(8))
    moved = samples.batch(range(8), augment=True, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(plain.labels, moved.labels)
    shade = (moved.inputs["photo"].mean(1) + 1) * 127.5
    sure = (moved.labels != VOID) & ((shade < 30) | (shade > 210))
    assert sure.float().mean() > 0.3
    assert torch.equal(moved.labels[sure] == 1, shade[sure] > 120)
    again = samples.batch(range(8), augment=True, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.labels, moved.labels)
    assert torch.equal(samples.batch(range(8)).labels, plain.labels)
