"""Text cells: cleaned, cut into tokens, padded or cut to one length."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Int64
from pydantic import Field
from torch import Tensor

from triptych.data.clean import Cleaning, clean
from triptych.data.tokenizer import UNKNOWN, Level, Lookup, Subword, load_tokenizer, train_tokenizer
from triptych.errors import InputError, LimitError
from triptych.limits import LIMITS
from triptych.structure import Features, Modality, Settings


class TextFeatures:
    """What a text cell becomes: (tokens,) ids, 0 after its end.

    Args:
        config: cleaning, tokens, length.
        tokenizer: made by `fit`.
    """

    class Config(Settings):
        """How text is cleaned, cut and, in training, varied."""

        level: Level = "subword"
        vocabulary: int = Field(4_000, ge=258, le=1_000_000, description="ids at most, padding and unknown included")
        length: int | None = Field(
            None,
            ge=1,
            le=LIMITS.text_characters,
            description="tokens; default: the 99th percentile of the data, at most 256",
        )
        cleaning: Cleaning = Cleaning()
        drop: float = Field(0.0, ge=0, lt=1, description="share of tokens that augmentation makes unknown")

    kind: ClassVar[Modality] = "text"

    def __init__(self, config: Config, tokenizer: Lookup | Subword | None = None) -> None:
        self.config = config
        self.tokenizer = tokenizer or train_tokenizer(config.level, (), config.vocabulary)

    def fit(self, cells: Iterable[Any], root: Path = Path(), where: str = "the training table") -> "TextFeatures":  # noqa: ARG002 - one signature for every kind
        """Make the tokenizer from these texts, and choose the length if none is set."""
        texts = [self.clean(cell, where) for cell in cells]
        tokenizer = train_tokenizer(self.config.level, texts, self.config.vocabulary)
        config = self.config
        if config.length is None and texts:
            lengths = [len(tokenizer.encode(text)) for text in texts]
            config = config.model_copy(update={"length": max(1, min(int(np.ceil(np.quantile(lengths, 0.99))), 256))})
        return type(self)(config, tokenizer)

    @property
    def length(self) -> int:
        """Tokens of a sample."""
        return self.config.length or 32

    @property
    def shape(self) -> Features:
        """What an encoder reads."""
        return Features(kind="text", shape=(self.length,), vocabulary=self.tokenizer.vocabulary)

    def clean(self, cell: Any, where: str) -> str:
        """The cleaned text of a cell; numbers are text too.

        Raises:
            InputError: the cell holds neither text nor a number.
            LimitError: the text is too long.
        """
        if not isinstance(cell, str | int | float):
            raise InputError(f"{where}: {cell!r:.60} is not text.", "Mend the cell, or the column's kind.")
        text = str(cell)
        if len(text) > LIMITS.text_characters:
            raise LimitError(
                f"{where}: the text has {len(text):,} characters; the limit is {LIMITS.text_characters:,}.",
                "Shorten it.",
            )
        return clean(text, self.config.cleaning)

    def load(self, cell: Any, root: Path, where: str) -> Int64[Tensor, " tokens"]:  # noqa: ARG002 - one signature for every kind
        """The ids of one cell. A text of which cleaning leaves nothing is one unknown token, unlike a missing cell.

        Raises:
            InputError: the cell holds neither text nor a number.
            LimitError: the text is too long.
        """
        ids = (self.tokenizer.encode(self.clean(cell, where)) or [UNKNOWN])[: self.length]
        padded = torch.zeros(self.length, dtype=torch.int64)
        padded[: len(ids)] = torch.tensor(ids)
        return padded

    def pieces(self, cell: Any, where: str) -> list[str]:
        """The stretches of a cell's cleaned text that its ids stand for, as many as `load` keeps.

        Raises:
            InputError: the cell holds neither text nor a number.
            LimitError: the text is too long.
        """
        return self.tokenizer.pieces(self.clean(cell, where))[: self.length]

    def features(
        self, stack: Int64[Tensor, "batch tokens"], augment: bool = False, generator: torch.Generator | None = None
    ) -> Int64[Tensor, "batch tokens"]:
        """The ids; with augmentation, some made unknown."""
        if not augment or not self.config.drop:
            return stack
        dropped = torch.rand(stack.shape, generator=generator) < self.config.drop
        return stack.masked_fill(dropped & (stack != 0), UNKNOWN)

    def absent(self) -> Int64[Tensor, " tokens"]:
        """Stands in for a missing cell, beside a presence of False."""
        return torch.zeros(self.length, dtype=torch.int64)

    def state(self) -> dict[str, Any]:
        """Everything `from_state` needs, ready for JSON."""
        return {"config": self.config.model_dump(mode="json"), "tokenizer": self.tokenizer.state()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "TextFeatures":
        """The features that `state` came from."""
        return cls(cls.Config(**state["config"]), load_tokenizer(state["tokenizer"]))
