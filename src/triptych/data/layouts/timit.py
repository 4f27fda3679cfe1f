"""TIMIT: read sentences in folders by split, dialect and speaker (Garofolo et al. 1993, LDC93S1).

    TRAIN/DR1/FCJF0/SA1.WAV    NIST SPHERE
    TRAIN/DR1/FCJF0/SA1.TXT    0 46797 She had your dark suit in greasy wash water all year.       first sample, last, words
    TRAIN/DR1/FCJF0/SA1.WRD, SA1.PHN    the same word by word and sound by sound

`transcript` holds the sentence, or the words of a WRD file where there is no TXT; `phones` the symbols of the PHN files. Names may
be small or capital, and sounds may have been converted (SA1.wav, SA1.flac, SA1.WAV.wav).
"""

from collections.abc import Sequence
from pathlib import Path

from triptych.data.decode import AUDIO_SUFFIXES
from triptych.data.layouts.split_folders import split_folders
from triptych.data.table import Table, read_text, table_of
from triptych.errors import InputError

KINDS = {
    "audio": "audio:input",
    "transcript": "text:target",
    "speaker": "category:group",
    "phones": "text:ignore",
}
PLACES = (".", "data", "DATA", "TIMIT", "timit", "timit/timit", "TIMIT/data")


def read(path: Path) -> dict[str, Table] | None:
    """Utterances by split; of a sentence that has no sound the place where it should be.

    Raises:
        InputError: a line of a TXT, WRD or PHN file is not two numbers and a text.
    """
    root = next((root for place in PLACES if any((root := path / place).glob("[tT][rReE]*/[dD][rR][1-8]"))), None)
    if root is None:
        return None
    return {split: _table(folder, root) for split, folder in split_folders(root).items()}


def _table(folder: Path, root: Path) -> Table:
    """The utterances of a split, sorted by dialect, speaker and sentence."""
    columns: dict[str, list[str | None]] = {name: [] for name in KINDS}
    for speaker in sorted(folder.glob("[dD][rR][1-8]/*")):
        files: dict[str, dict[str, Path]] = {}
        for file in sorted(speaker.iterdir()) if speaker.is_dir() else ():
            sentence = file.name.partition(".")[0]
            files.setdefault(sentence, {})[file.suffix.lower()] = file
        for sentence, parts in files.items():
            sound = next(
                (parts[suffix] for suffix in sorted(AUDIO_SUFFIXES & parts.keys())), speaker / f"{sentence}.WAV"
            )
            words = _marked(parts, ".txt") or _marked(parts, ".wrd")
            columns["audio"].append(sound.relative_to(root).as_posix())
            columns["transcript"].append(" ".join(words) or None)
            columns["speaker"].append(speaker.name.upper())
            columns["phones"].append(" ".join(_marked(parts, ".phn")) or None)
    return table_of(columns, KINDS, root=root, source=folder)


def _marked(parts: dict[str, Path], suffix: str) -> Sequence[str]:
    """The words or symbols of a file, behind the samples where they begin and end."""
    if suffix not in parts:
        return ()
    found = []
    for line, text in enumerate(read_text(parts[suffix]).split("\n"), 1):
        if not text.strip():
            continue
        first, last, words = [*text.split(None, 2), "", "", ""][:3]
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) and words):
            raise InputError(
                f"{parts[suffix]}, line {line} is not a first sample, a last one and a text.", "Mend the line."
            )
        found.append(words.strip())
    return found
