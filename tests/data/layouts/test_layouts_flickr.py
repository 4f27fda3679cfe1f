from pathlib import Path

import pytest
from PIL import Image

from triptych.data.check import check
from triptych.data.layouts import read_layout
from triptych.data.splits import read_splits
from triptych.data.target import Target
from triptych.errors import InputError

LISTS = {"train": range(6), "dev": (6, 7), "test": (8, 9)}  # picture 10 stands in none


@pytest.fixture
def flickr(tmp_path: Path) -> Path:
    """Eleven photos with two captions each, as the two archives of Flickr8k unpack."""
    photos, texts = tmp_path / "Flicker8k_Dataset", tmp_path / "Flickr8k_text"
    photos.mkdir()
    texts.mkdir()
    lines = []
    for i in range(11):
        Image.effect_noise((8, 8), 60).save(photos / f"{i}_a.jpg")
        lines += [f"{i}_a.jpg#{k}\tThe dog , number {i} , runs {'fast' * k} .\n" for k in range(2)]
    (texts / "Flickr8k.token.txt").write_text("".join(lines))
    (texts / "Flickr8k.lemma.token.txt").write_text("not these")
    for split, numbers in LISTS.items():
        (texts / f"Flickr_8k.{split}Images.txt").write_text("".join(f"{i}_a.jpg\n" for i in numbers))
    return tmp_path


def test_captions_by_the_lists_of_photos(flickr):
    splits = read_splits(flickr)
    assert {split: len(table) for split, table in splits.tables.items()} == {"train": 6, "valid": 2, "test": 2}
    assert str(splits.schema) == "image: image:input\ncaption: text:target\nimage_id: category:group"
    assert splits.table("test").row(1) == {
        "image": "Flicker8k_Dataset/9_a.jpg",
        "caption": "The dog , number 9 , runs  .\nThe dog , number 9 , runs fast .",
        "image_id": "9_a",
    }
    assert splits.table("test").place(1) == "Flickr8k.token.txt, line 19"
    report = check(splits.tables, splits.schema)
    assert report.of("error") == ()
    assert [f.message for f in report.findings if f.code == "layout"] == [
        "Flickr8k.token.txt: 1 photo that no list names left out."
    ]


def test_the_same_as_csv_with_photos_of_another_format(flickr):
    for photo in (flickr / "Flicker8k_Dataset").iterdir():
        Image.open(photo).save(photo.with_suffix(".webp"))
        photo.unlink()
    (flickr / "Flickr8k_text/Flickr8k.token.txt").unlink()
    (flickr / "captions.txt").write_text(
        'image,caption\n9_a.jpg,"A dog, which runs ."\n0_a.jpg,A cat .\n8_a.jpg,A cow .\n6_a.jpg,A pig .\n'
    )
    table = read_layout(flickr)["test"]
    assert (table.column("image"), table.numbers) == (
        ["Flicker8k_Dataset/9_a.webp", "Flicker8k_Dataset/8_a.webp"],
        (2, 4),
    )
    names = flickr / "Flickr8k_text/Flickr_8k.devImages.txt"
    names.write_text("7_a.jpg\n")
    with pytest.raises(InputError, match=f"No photo that {names} names has a caption in captions.txt"):
        read_layout(flickr)


def test_without_lists_whole_photos_are_drawn(flickr):
    for file in (flickr / "Flickr8k_text").glob("*Images.txt"):
        file.unlink()
    tables = read_splits(flickr).tables
    assert sum(map(len, tables.values())) == 11
    photos = [set(table.column("image_id")) for table in tables.values()]
    assert sum(map(len, photos)) == 11


def test_a_caption_without_words_and_a_photo_that_is_absent(flickr):
    token = flickr / "Flickr8k_text/Flickr8k.token.txt"
    words = token.read_text().replace("The dog , number 2 , runs  .", " . . .")
    token.write_text(
        words.replace("The dog , number 3 , runs  .", ". .").replace("The dog , number 3 , runs fast .", ".")
    )
    (flickr / "Flicker8k_Dataset/8_a.jpg").unlink()
    splits = read_splits(flickr)
    assert splits.table("train").column("caption")[2] == "The dog , number 2 , runs fast ."
    report = check(splits.tables, splits.schema)
    assert [f.message for f in report.of("note")][1] == "Flickr8k.token.txt, line 5: 1 caption without a word left out."
    assert [(f.code, f.message.split(":")[0]) for f in report.of("error")] == [
        ("no_words", "Flickr8k.token.txt, line 7, column caption"),
        ("missing_file", "Flickr8k.token.txt, line 17, column image"),
    ]


def test_captions_that_are_read_are_a_row_each(flickr):
    asked = read_splits(flickr, overrides={"image_id": "identity:target", "caption": "text:input"})
    known = read_splits(flickr, answered=Target(name="image_id", kind="identity"))
    for splits in (asked, known):
        assert {split: len(table) for split, table in splits.tables.items()} == {"train": 12, "valid": 4, "test": 4}
        assert splits.schema.target.name == "image_id"
        assert splits.schema.target.kind == "identity"
    row = asked.table("test").row(3)
    assert row == {
        "image": "Flicker8k_Dataset/9_a.jpg",
        "caption": "The dog , number 9 , runs fast .",
        "image_id": "9_a",
    }


@pytest.mark.parametrize("line", ["0_a.jpg A dog .", "0_a.jpg\tA dog .", "0_a.jpg#x\tA dog ."])
def test_a_line_that_is_no_caption(flickr, line):
    token = flickr / "Flickr8k_text/Flickr8k.token.txt"
    token.write_text(token.read_text() + line + "\n")
    with pytest.raises(InputError) as caught:
        read_layout(flickr)
    assert str(caught.value) == (
        "Flickr8k.token.txt, line 23 is not a photo, # and a number, a tab, and words. Mend the line."
    )


def test_no_folder_with_the_photos(flickr):
    (flickr / "Flicker8k_Dataset").rename(flickr.parent / "elsewhere")
    with pytest.raises(
        InputError, match=r"No folder beside .* holds the pictures that it names \(the first is 0_a\.jpg\)\."
    ):
        read_layout(flickr)
