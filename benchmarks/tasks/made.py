"""Tables whose target is a sound that is to be made, and the table of the recogniser that judges it.

The recogniser learns from takes 10 to 29 of FSDD, models that speak from takes 30 to 49. Both are chosen by the same valid rows, and
tested on the same test rows.
"""

from pathlib import Path

from benchmarks.packs import unpack, write_tables
from benchmarks.tasks.splits import Rows
from benchmarks.tasks.texts import DIGITS

TAKES = {"test": range(5), "valid": range(5, 10), "judge": range(10, 30), "train": range(30, 50)}
ONE_VOICE = "jackson"


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
