"""Tables whose target is a sound or a picture that is to be made, and tables of the classifiers that judge what was made.

Judges learn from other clips and pictures than makers: of FSDD from takes 10 to 29, while models that speak learn from takes 30 to 49;
of easy-VQA from every third picture. Both are chosen by the same valid rows, and tested on the same test rows.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.packs import inside, unpack, write_tables
from benchmarks.tasks.splits import Rows, held_back
from benchmarks.tasks.texts import DIGITS

TAKES = {"test": range(5), "valid": range(5, 10), "judge": range(10, 30), "train": range(30, 50)}
ONE_VOICE = "jackson"
COLOURS = frozenset({"black", "blue", "brown", "gray", "green", "red", "teal", "yellow"})
SHAPES = frozenset({"circle", "rectangle", "triangle"})


def _clips(folder: Path) -> dict[str, Rows]:
    """Every clip with its word and speaker, by split."""
    media = unpack("fsdd_flac.zip", folder / "media")
    rows: dict[str, Rows] = {name: [] for name in TAKES}
    for file in sorted(media.rglob("*.flac")):
        digit, speaker, take = file.stem.split("_")
        split = next(name for name, takes in TAKES.items() if int(take) in takes)
        voice = str(file.relative_to(folder))
        rows[split].append({"word": DIGITS[int(digit)], "speaker": speaker, "voice": voice})
    return rows


def speech(folder: Path) -> Path:
    """Digits as words, to be said by each of six voices (FSDD, CC BY-SA)."""
    rows = _clips(folder)
    del rows["judge"]
    return write_tables(folder, {"word": "text", "speaker": "category", "voice": "audio:target"}, **rows)


def speech_one_voice(folder: Path) -> Path:
    """Digits as words, to be said by one voice."""
    rows = {split: [row for row in found if row["speaker"] == ONE_VOICE] for split, found in _clips(folder).items()}
    del rows["judge"]
    return write_tables(folder, {"word": "text", "speaker": "category:ignore", "voice": "audio:target"}, **rows)


def heard(folder: Path) -> Path:
    """The recogniser's own clips: which digit is it?"""
    rows = _clips(folder)
    rows["train"] = rows.pop("judge")
    return write_tables(folder, {"voice": "audio", "word": "category:target", "speaker": "category:group"}, **rows)


def _captions(folder: Path, split: str) -> Iterator[tuple[int, str]]:
    """Each picture whose questions and answers tell its colour and its shape, as most do, with both in words."""
    told: dict[int, set[str]] = {}
    for question, answer, image in json.loads(inside(folder / "media", f"{split}/questions.json.gz")):
        words = set(re.findall(r"\w+", question))
        if answer not in ("yes", "no"):
            told.setdefault(image, set()).update(words, [answer])
        elif (answer == "yes") != bool(words & {"no", "not"}):
            told.setdefault(image, set()).update(words)
    for image, words in sorted(told.items()):
        colours, shapes = words & COLOURS, words & SHAPES
        if colours and shapes:
            yield image, f"a {colours.pop()} {shapes.pop()}"


def _described(folder: Path, *, judge: bool) -> dict[str, Rows]:
    """Captions and pictures by split; every third training picture is the judge's."""
    unpack("easyvqa.zip", folder / "media")
    rows: dict[str, Rows] = {
        split: [
            {"caption": caption, "picture": f"media/{split}/{image}.png", "image": image}
            for image, caption in _captions(folder, split)
        ]
        for split in ("train", "test")
    }
    kept = held_back([row["image"] for row in rows["train"]])
    rows["valid"] = [row for row in rows["train"] if row["image"] in kept]
    rows["train"] = [row for row in rows["train"] if row["image"] not in kept and (row["image"] % 3 == 0) == judge]
    return rows


def drawing(folder: Path) -> Path:
    """A coloured shape, to be drawn as its caption says (easy-VQA, MIT)."""
    return write_tables(folder, {"caption": "text", "picture": "image:target"}, **_described(folder, judge=False))


def seen(folder: Path) -> Path:
    """The judge's own pictures: which shape of which colour is it?"""
    return write_tables(folder, {"picture": "image", "caption": "category:target"}, **_described(folder, judge=True))
