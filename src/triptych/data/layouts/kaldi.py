"""Kaldi data directories: lists of recordings, transcripts and speakers (kaldi-asr.org/doc/data_prep.html).

    wav.scp     <recording> <path>                     a command that ends in | is refused, never run
    text        <utterance> <words>
    utt2spk     <utterance> <speaker>
    segments    <utterance> <recording> <start> <end>  seconds; without this file an utterance is a recording

A folder may hold several, called train, dev and test. Paths start at the folder or at one above it, as the recipes' do.
"""

import re
from pathlib import Path

from triptych.data.schema import SPLIT_NAMES
from triptych.data.table import Table, read_text, relative, table_of
from triptych.errors import InputError

KINDS = {"audio": "audio:input", "transcript": "text:target", "speaker": "category:group"}
NAMES = SPLIT_NAMES | {"eval": "test"}
ARCHIVE = re.compile(r"\.ark(:\d+)?$")
ABOVE = 4  # folders in which a relative path may start
Lines = dict[str, tuple[int, str]]  # line and what follows, by what stands first


def read(path: Path) -> dict[str, Table] | None:
    """Utterances of one directory, or by split of those in it.

    Raises:
        InputError: a recording is a command or an archive, a line cannot be read, an utterance has no recording, or
            directories have names that are no splits.
    """
    if (path / "wav.scp").is_file():
        return {"": _table(path)}
    inner = [file.parent for file in sorted(path.glob("*/wav.scp"))]
    named = {NAMES[folder.name.lower()]: folder for folder in inner if folder.name.lower() in NAMES}
    if inner and not named:
        raise InputError(
            f"{path} holds {', '.join(folder.name for folder in inner)}, and none is called train or test.",
            "Give one of them.",
        )
    return {split: _table(folder) for split, folder in named.items()} or None


def _table(folder: Path) -> Table:
    """The utterances of a directory, in the order of `text`, else of `segments`, else of `wav.scp`."""
    recordings, words, speakers, segments = (
        _lines(folder / name) for name in ("wav.scp", "text", "utt2spk", "segments")
    )
    _refuse_commands(recordings, folder)
    root = _root(folder, [path for _, path in recordings.values()])
    listed = "text" if words else "segments" if segments else "wav.scp"
    rows = words or segments or recordings
    columns: dict[str, list[str | None]] = {name: [] for name in KINDS}
    for utterance, (line, _) in rows.items():
        where = f"{folder / listed}, line {line}"
        if segments and utterance not in segments:
            raise InputError(
                f"{where}: segments does not list the utterance {utterance}.", "utils/fix_data_dir.sh drops it."
            )
        recording, part = _segment(utterance, segments, folder) if segments else (utterance, "")
        if recording not in recordings:
            raise InputError(
                f"{where}: wav.scp does not list {recording}.", "utils/fix_data_dir.sh drops the utterance."
            )
        columns["audio"].append(relative(root / recordings[recording][1], folder) + part)
        columns["transcript"].append(words[utterance][1] or None if words else None)
        columns["speaker"].append(speakers[utterance][1] if utterance in speakers else None)
    kept = {name: cells for name, cells in columns.items() if any(cells)}
    kinds = {name: KINDS[name] for name in kept}
    lines = [line for line, _ in rows.values()]
    return table_of(kept, kinds, root=folder, source=folder, numbers=lines, unit=f"{listed} line")


def _lines(file: Path) -> Lines:
    """The lines of a list; empty where there is no such file."""
    found: Lines = {}
    for line, text in enumerate(read_text(file).split("\n") if file.is_file() else (), 1):
        if not text.strip():
            continue
        key, what = [*text.split(None, 1), ""][:2]
        if key in found:
            raise InputError(f"{file}, line {line}: {key} stands there twice.", "utils/fix_data_dir.sh sorts it out.")
        found[key] = line, what.strip()
    return found


def _segment(utterance: str, segments: Lines, folder: Path) -> tuple[str, str]:
    """The recording of an utterance, and its part as a media fragment; an end of -1 is the recording's."""
    line, text = segments[utterance]
    cells = text.split()
    try:
        recording, start, end = cells[0], float(cells[1]), float(cells[2])
    except (IndexError, ValueError):
        start, end = -1.0, -1.0
    if not start >= 0 or not (start < end or end == -1):
        raise InputError(
            f"{folder / 'segments'}, line {line} is not an utterance, a recording, a start and a later end.",
            "Mend the line.",
        )
    return recording, f"#t={start:.6f}" + (f",{end:.6f}" if end != -1 else "")


def _refuse_commands(recordings: Lines, folder: Path) -> None:
    for name, (line, path) in recordings.items():
        if path.startswith("|") or path.endswith("|"):
            raise InputError(
                f"{folder / 'wav.scp'}, line {line}: {name} is a command ({path:.60}), and commands in data are never run.",
                "Write the sounds as files, and list those.",
            )
        if not path or ARCHIVE.search(path):
            raise InputError(
                f"{folder / 'wav.scp'}, line {line}: {name} is {'an archive' if path else 'nothing'}, not a sound file.",
                "List WAV or FLAC files.",
            )


def _root(folder: Path, paths: list[str]) -> Path:
    """Where relative paths start: the nearest folder from which one of the first leads to a file."""
    above = [folder, *folder.resolve().parents[:ABOVE]]
    return next((root for root in above if any((root / path).is_file() for path in paths[:20])), folder)
