"""Cleaning of text before it is cut into tokens."""

import re
import unicodedata
from functools import cache
from importlib.resources import files
from typing import Literal

import yaml

from triptych.errors import InputError
from triptych.structure import Settings

ADDRESS = re.compile(r"(https?://|www\.)\S+", re.IGNORECASE)
TAG = re.compile(r"<[^<>]{1,500}>")


class Cleaning(Settings):
    """What is done to a text. In any case characters get Unicode's NFC form, and white space becomes one space."""

    lowercase: bool = True
    compatible: bool = True  # NFKC: full-width letters, ligatures and the like become their usual forms
    tags: bool = False  # remove HTML tags
    addresses: bool = False  # remove web addresses
    accents: bool = False  # remove accents: café becomes cafe
    punctuation: bool = False  # remove punctuation and symbols
    stop_words: tuple[str, ...] = ()  # languages (ISO 639-1) whose stop words are removed


def clean(text: str, settings: Cleaning) -> str:
    """The text after cleaning; cleaning it again changes nothing.

    Raises:
        InputError: there is no stop word list for a language.
    """
    if settings.tags:
        text = _until_stable(TAG, text)
    if settings.addresses:
        text = _until_stable(ADDRESS, text)
    text = _folded(text, settings)
    if settings.punctuation:
        text = "".join(" " if is_punctuation(character) else character for character in text)
    words = "".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in text).split()
    if settings.stop_words:
        stops = frozenset[str]().union(*(stop_words(language) for language in settings.stop_words))
        words = [word for word in words if word.casefold() not in stops]
    return " ".join(words)


@cache
def stop_words(language: str) -> frozenset[str]:
    """The stop words of a language.

    Raises:
        InputError: there is no list for it.
    """
    content = (files("triptych.data") / "stop_words.yaml").read_text(encoding="utf-8")
    lists = yaml.load(content, yaml.BaseLoader)  # noqa: S506 - safe, and it leaves `no` and `on` words
    if language not in lists:
        raise InputError(f"There are no stop words for {language!r}.", f"Choose from: {', '.join(sorted(lists))}.")
    return frozenset(lists[language])


def is_punctuation(character: str) -> bool:
    """Whether a character is punctuation or a symbol."""
    return unicodedata.category(character)[0] in "PS"


def _folded(text: str, settings: Cleaning) -> str:
    """Normal form, case and accents; normal form again, because the other two can undo it."""
    form: Literal["NFKC", "NFC"] = "NFKC" if settings.compatible else "NFC"
    apart: Literal["NFKD", "NFD"] = "NFKD" if settings.compatible else "NFD"
    text = unicodedata.normalize(form, text)
    if settings.lowercase:
        text = text.lower()
    if settings.accents:
        text = "".join(c for c in unicodedata.normalize(apart, text) if not unicodedata.combining(c))
    return unicodedata.normalize(form, text)


def _until_stable(pattern: re.Pattern[str], text: str) -> str:
    """Remove every match, those included that appear when others are gone."""
    while (shorter := pattern.sub(" ", text)) != text:
        text = shorter
    return text
