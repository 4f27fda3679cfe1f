"""What any model's config says, found by the words in its keys: sizes, vocabularies, and the ids that stand for another modality.

A config is read as nested dictionaries, outermost keys first. Keys of a part named after the modality (`vision_config`) go before
all others, so that a decoder's `patch_size` cannot answer for the vision tower.
"""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# The words by which inputs, configs and ids name a modality; the first that matches decides, so `pixel_values_videos` is a video.
WORDS = {
    "video": ("video", "frames", "clip_frames"),
    "image": ("image", "pixel", "vision", "visual", "img", "picture", "spatial", "patches"),
    "audio": (
        "audio",
        "speech",
        "sound",
        "wave",
        "spectrogram",
        "mel",
        "input_features",
        "input_values",
        "decoder_input_values",
    ),
    "text": ("text", "language", "llm", "decoder", "input_ids", "token"),
}
PARTS = {
    "video": ("video", "vision", "visual"),
    "image": ("vision", "visual", "image"),
    "audio": ("audio", "speech"),
    "text": ("text", "language", "llm", "decoder"),
}
_PLACEHOLDER = r"{}(_pad|_patch|_context|_soft|_placeholder)?_token(_id|_index)?"
_IDS = re.compile(r".*_token_(ids?|index)$")


def modality_of(name: str) -> str | None:
    """The modality that the name of an input speaks of; None where it speaks of none."""
    return next((modality for modality, words in WORDS.items() if any(word in name for word in words)), None)


@dataclass(frozen=True)
class Key:
    """One entry: the path of the config that holds it ("vision_config"), its own name and its value."""

    path: str
    name: str
    value: Any


class ConfigKeys:
    """All entries of a config, whatever its class; none for a module that has no config."""

    def __init__(self, config: Any) -> None:
        content = config.to_dict() if hasattr(config, "to_dict") else getattr(config, "__dict__", config)
        self.keys = [key for key in _walk(content) if key.value is not None] if isinstance(content, dict) else []
        self._named: dict[str, list[Key]] = {}
        for key in self.keys:
            self._named.setdefault(key.name, []).append(key)

    def find(self, *patterns: str, modality: str | None = None) -> list[Any]:
        """Values whose names match a pattern in full: by pattern, then the modality's own parts, then outermost first."""
        words = PARTS.get(modality or "", ())
        found = []
        for pattern in patterns:
            matching = [key for name, keys in self._named.items() if re.fullmatch(pattern, name) for key in keys]
            found += sorted(matching, key=lambda key: not any(word in key.path for word in words))
        return [key.value for key in found]

    def numbers(self, *patterns: str, modality: str | None = None) -> list[int]:
        """As `find`: whole numbers above zero, pairs reduced to their first, without repeats."""
        firsts = [
            value[0] if isinstance(value, (list, tuple)) and value else value
            for value in self.find(*patterns, modality=modality)
        ]
        return list(dict.fromkeys(n for n in firsts if isinstance(n, int) and not isinstance(n, bool) and n > 0))

    def placeholders(self) -> dict[str, int]:
        """By modality, the id that the language sequence holds where features of that modality are put."""
        found: dict[str, int] = {}
        for modality in ("image", "video", "audio"):
            for word in (*WORDS[modality], *PARTS[modality]):
                ids = [
                    n for n in self.find(_PLACEHOLDER.format(word)) if isinstance(n, int) and not isinstance(n, bool)
                ]
                if ids and ids[0] not in found.values():
                    found[modality] = ids[0]
                    break
        return found

    def brackets(self, modality: str) -> tuple[list[int], list[int]]:
        """The ids that open and close a run of placeholders, each a list of one or none."""
        words = "|".join(PARTS[modality])
        sides = []
        for side, letter in (("start|begin|bos", "b"), ("end|eos", "e")):
            short = f"{letter}o{modality[0]}"
            sides.append(self.numbers(f"({words})_({side})_token_(id|index)", f"{short}_token_(id|index)")[:1])
        return sides[0], sides[1]

    def special_ids(self) -> set[int]:
        """Every id that the config gives a meaning of its own."""
        ids: set[int] = set()
        for key in self.keys:
            if _IDS.fullmatch(key.name):
                ids.update(
                    n
                    for n in (key.value if isinstance(key.value, (list, tuple)) else [key.value])
                    if isinstance(n, int)
                )
        return ids


def _walk(content: dict[str, Any]) -> Iterator[Key]:
    """Breadth first, so that outer entries come before inner ones."""
    todo = deque([("", content)])
    while todo:
        path, level = todo.popleft()
        for name, value in level.items():
            if isinstance(value, dict):
                todo.append((f"{path}.{name}" if path else str(name), value))
            yield Key(path, str(name), value)
