"""Three ways to cut a text into numbered tokens: words, characters, subwords. 0 is padding, 1 is anything unknown."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal, Protocol

from triptych.data.clean import is_punctuation

PADDING, UNKNOWN = 0, 1
SPECIAL = ("<pad>", "<unk>")
Level = Literal["word", "character", "subword"]


class Tokenizer(Protocol):
    """What the three have in common."""

    @property
    def vocabulary(self) -> int:
        """One more than the largest id."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text's tokens."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids; padding is left out."""

    def pieces(self, text: str) -> list[str]:
        """The stretch of the text that each id of `encode` stands for."""

    def state(self) -> dict[str, Any]:
        """What `load_tokenizer` needs, ready for JSON."""


class Lookup:
    """A vocabulary of whole words, or of characters.

    Words are what white space and punctuation leave; a punctuation mark is a word. Scripts that write no spaces
    (Chinese, Japanese, Thai) need characters or subwords.
    """

    def __init__(self, level: Literal["word", "character"], tokens: Iterable[str]) -> None:
        self.level = level
        self.tokens = tuple(tokens)
        self._ids = {token: place for place, token in enumerate(self.tokens, len(SPECIAL))}

    @classmethod
    def train(cls, level: Literal["word", "character"], texts: Iterable[str], size: int) -> "Lookup":
        """The most frequent tokens, `size` ids in all; of equally frequent ones the first in code point order."""
        counts = Counter(token for text in texts for token in _split(text, level))
        ranked = sorted(counts, key=lambda token: (-counts[token], token))
        return cls(level, ranked[: max(size - len(SPECIAL), 0)])

    @property
    def vocabulary(self) -> int:
        """One more than the largest id."""
        return len(self.tokens) + len(SPECIAL)

    def encode(self, text: str) -> list[int]:
        """The ids of a text's tokens."""
        return [self._ids.get(token, UNKNOWN) for token in _split(text, self.level)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids, words joined by spaces; an unknown one as U+FFFD."""
        known = ["\ufffd" if i == UNKNOWN else self.tokens[i - len(SPECIAL)] for i in ids if i != PADDING]
        return (" " if self.level == "word" else "").join(known)

    def pieces(self, text: str) -> list[str]:
        """The stretch of the text that each id of `encode` stands for; words are followed by a space."""
        return [f"{token} " if self.level == "word" else token for token in _split(text, self.level)]

    def state(self) -> dict[str, Any]:
        """What `load_tokenizer` needs, ready for JSON."""
        return {"level": self.level, "tokens": list(self.tokens)}


class Subword:
    """Byte-level byte pair encoding (Sennrich et al. 2016; Radford et al. 2019). No text in any script is unknown."""

    level: Literal["subword"] = "subword"

    def __init__(self, json: str) -> None:
        from tokenizers import Tokenizer as Trained

        self._trained = Trained.from_str(json)
        self._trained.encode_special_tokens = True  # "<pad>" in a text is five characters, not padding

    @classmethod
    def train(cls, texts: Iterable[str], size: int) -> "Subword":
        """Merge the most frequent neighbours until there are `size` ids or no pair occurs twice; bytes have ids too."""
        from tokenizers import Tokenizer as Trained
        from tokenizers import decoders, models, pre_tokenizers, trainers

        trained = Trained(models.BPE())
        trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trained.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            min_frequency=2,
            special_tokens=list(SPECIAL),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        trained.train_from_iterator(list(texts), trainer)
        return cls(trained.to_str())

    @property
    def vocabulary(self) -> int:
        """One more than the largest id."""
        return int(self._trained.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """The ids of a text's tokens."""
        return list(self._trained.encode(text).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids; padding is left out."""
        return str(self._trained.decode([i for i in ids if i != PADDING], skip_special_tokens=True))

    def pieces(self, text: str) -> list[str]:
        """The stretch of the text that each id of `encode` stands for; a character of several ids goes to the first."""
        found, done = [], 0
        for start, end in self._trained.encode(text).offsets:
            found.append(text[max(start, done) : end])
            done = max(done, end)
        return found

    def state(self) -> dict[str, Any]:
        """What `load_tokenizer` needs, ready for JSON. `json` is a tokenizer.json that the tokenizers library reads."""
        return {"level": self.level, "json": self._trained.to_str()}


def train_tokenizer(level: Level, texts: Iterable[str], size: int) -> Lookup | Subword:
    """A tokenizer made from training texts, with at most `size` ids."""
    return Subword.train(texts, size) if level == "subword" else Lookup.train(level, texts, size)


def load_tokenizer(state: dict[str, Any]) -> Lookup | Subword:
    """The tokenizer that `state` came from."""
    return Subword(state["json"]) if state["level"] == "subword" else Lookup(state["level"], state["tokens"])


def _split(text: str, level: Literal["word", "character"]) -> list[str]:
    if level == "character":
        return list(text)
    return "".join(f" {c} " if is_punctuation(c) else c for c in text).split()
