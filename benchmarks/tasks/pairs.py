"""Tables of things that belong together, found by one another: photos and their sentences, emoji and their names."""

import csv
import json
import random
from pathlib import Path
from typing import Any

from benchmarks.packs import inside, unpack, write_tables
from benchmarks.tasks.splits import Rows

EMOJI = {"valid": 154, "test": 155}  # of 1,545; each is seen in one split alone


def retrieval(folder: Path) -> Path:
    """Photos and five sentences each (Flickr8k; research use only). The official dev and test photos come as one list of 2,000: half of
    it, drawn by lot, is tested on, a gallery as large as the one of published figures, and half is validated on.
    """
    media = unpack("flickr8k_144webp.zip", folder / "media")
    told: dict[str, list[str]] = {}
    for image, caption in csv.reader(inside(media, "captions.txt.gz").splitlines()[1:]):
        told.setdefault(image.removesuffix(".jpg"), []).append(caption.strip())

    def rows(photos: list[str]) -> Rows:
        return [
            {"photo": f"media/{photo}.webp", "sentence": sentence, "photo_id": photo}
            for photo in photos
            for sentence in told[photo]
        ]

    lists = [inside(media, f"split_{split}.txt.gz").split() for split in ("train", "test")]
    train, held = ([line.removesuffix(".jpg") for line in photos] for photos in lists)
    random.Random(0).shuffle(held)  # noqa: S311 - photos, not secrets
    half = len(held) // 2
    return write_tables(
        folder,
        {"photo": "image", "sentence": "text", "photo_id": "identity:target"},
        train=rows(train),
        valid=rows(held[:half]),
        test=rows(held[half:]),
    )


def emoji(folder: Path) -> Path:
    """Emoji and what they are called (Fluent emoji and emojilib, MIT). Training may read names and keywords, together and apart;
    names alone ask for valid and test emoji, and names with keywords for those in asked_with_keywords.csv.
    """
    drawn = _drawn(folder)

    def rows(split: str, *, name: bool, keywords: bool) -> Rows:
        return [
            {"picture": f"media/{one['file']}", "words": _words(one, name, keywords), "emoji_id": one["char"]}
            for one in drawn[split]
        ]

    ways = ((True, False), (False, True), (True, True))
    return write_tables(
        folder,
        {"picture": "image", "words": "text", "emoji_id": "identity:target"},
        train=[row for name, keywords in ways for row in rows("train", name=name, keywords=keywords)],
        valid=rows("valid", name=True, keywords=False),
        test=rows("test", name=True, keywords=False),
        asked_with_keywords=rows("test", name=True, keywords=True),
    )


def classic(folder: Path) -> Path:
    """Which of Unicode's nine groups an emoji belongs to, by its picture, its name and its keywords; the groups as `emojis` has them."""
    from emojis import db

    groups = {_plain(one.emoji): group for group in db.get_categories() for one in db.get_emojis_by_category(group)}
    rows = {
        split: [
            {"picture": f"media/{one['file']}", "words": _words(one), "group": groups[_plain(one["char"])]}
            for one in some
        ]
        for split, some in _drawn(folder).items()
    }
    return write_tables(folder, {"picture": "image", "words": "text", "group": "category:target"}, **rows)


def _drawn(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What is told of each emoji, by split; the pictures lie in `media`."""
    media = unpack("fluent_emoji_96.zip", folder / "media")
    held: list[dict[str, Any]] = json.loads(inside(media, "meta.json.gz"))
    random.Random(0).shuffle(held)  # noqa: S311 - pictures, not secrets
    cut, end = EMOJI["test"], EMOJI["test"] + EMOJI["valid"]
    return {"train": held[end:], "valid": held[cut:end], "test": held[:cut]}


def _words(one: dict[str, Any], name: bool = True, keywords: bool = True) -> str:
    return " ".join([*([one["name"]] * name), *(one["keywords"] * keywords)]).replace("_", " ")


def _plain(char: str) -> str:
    """An emoji without the mark that asks for colours, which sources set or leave out."""
    return char.replace("\ufe0f", "")
