"""Tiny tables whose targets are texts."""

import json
from itertools import product

import pytest

NUMBERS = {
    "en": ("one", "two", "three", "four", "five", "six"),
    "de": ("eins", "zwei", "drei", "vier", "fünf", "sechs"),
}


@pytest.fixture(scope="session")
def told(tmp_path_factory):
    """Three English number words, to be said in German: 216 texts, no two splits with one in common, as JSON lines."""
    folder = tmp_path_factory.mktemp("told")
    rows = {"train": [], "valid": [], "test": []}
    for number, places in enumerate(product(range(6), repeat=3)):
        said, german = (" ".join(NUMBERS[language][place] for place in places) for language in ("en", "de"))
        split = ("train", "train", "train", "train", "train", "valid", "test")[number % 7]
        hurry = "yes" if number % 2 else "no"
        rows[split].append({"words": said, "hurry": hurry, "german": [german, german.upper()]})
    for split, told in rows.items():
        lines = [json.dumps(row, ensure_ascii=False) for row in told]
        (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "schema.yaml").write_text("words: text\nhurry: category\ngerman: text:target\n", encoding="utf-8")
    return folder
