"""Write a text: a caption, a translation, an answer in words.

Head: a decoder that looks at the tokens of all encoders. Loss: cross-entropy of each token after its true predecessors, over all
references of a row. Quality: one of those in `wording`; texts are written greedily or with beams, or drawn by a `sampler`.
"""

from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from triptych.data.target import Target
from triptych.decoders import search
from triptych.registry import build, register
from triptych.structure import Settings, Width, prefixed
from triptych.tasks.wording import METRICS, Score, Worded, Wording

State = tuple[Tensor, ...]


@register("task", "write")
class Write(Worded):
    """A text from the tokens of the encoders, by a decoder of the registry."""

    class Config(Settings):
        """`length` tokens at most are written, with `beams` (1 is greedy). What the data says is filled in by `fit`."""

        tokenizer: dict[str, Any] = {}
        vocabulary: PositiveInt = 2
        length: PositiveInt = 1
        decoder: dict[str, Any] = {"name": "transformer"}
        score: Score = "exact"
        beams: PositiveInt = 1
        label_smoothing: float = Field(0.0, ge=0, lt=1)

    reads: ClassVar[Literal["tokens"]] = "tokens"
    forced: ClassVar[bool] = True
    sampler: search.Sampler | None = None  # set by who wants texts drawn; no part of the model

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.config = config
        self.metric = METRICS[config.score]
        self.wording = Wording(config.tokenizer, config.score)
        self.decoder = build("decoder", config.decoder, width, config.vocabulary, config.length)

    def forward(
        self,
        memory: Float[Tensor, "batch places width"],
        mask: Bool[Tensor, "batch places"],
        labels: Int[Tensor, "batch references tokens"] | None = None,
    ) -> Int[Tensor, "batch length"] | Float[Tensor, "positions vocabulary"]:
        """The ids that are written; with labels, the logits of the labels' tokens instead."""
        if labels is None:
            step, state = self.decoder.step, self.decoder.start(memory, mask)
            return search.write(step, state, self.config.length, beams=self.config.beams, sampler=self.sampler)
        asked, told = self._told(labels)
        rows = asked.nonzero()[:, 0]  # of the row that each reference belongs to
        before = F.pad(told, (1, 0))[:, :-1]
        logits = self.decoder(memory[rows], mask[rows], before)
        return logits[_real(told)]

    def loss(
        self, logits: Float[Tensor, "positions vocabulary"], labels: Int[Tensor, "batch references tokens"]
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy over all tokens, ends included."""
        _, told = self._told(labels)
        return F.cross_entropy(logits, told[_real(told)], label_smoothing=self.config.label_smoothing)

    def start(self, memory: Float[Tensor, "batch places width"], mask: Bool[Tensor, "batch places"]) -> State:
        """The state before the first token, for engines that run step by step."""
        state: State = self.decoder.start(memory, mask)
        return state

    def step(self, ids: Int[Tensor, " batch"], place: Int[Tensor, " batch"], state: State) -> tuple[Tensor, State]:
        """The logits of the next token, and the state after it."""
        logits, after = self.decoder.step(ids, place, state)
        return logits, after

    def _told(self, labels: Tensor) -> tuple[Bool[Tensor, "batch references"], Int[Tensor, "told length"]]:
        """Which references are there, and these, each with an end and no longer than may be written."""
        there = labels.any(-1)
        told = F.pad(labels[there], (0, 1))[:, : self.config.length]
        return there, told[:, : int((told != 0).sum(-1).max()) + 1]

    def widths(self) -> list[Width]:
        """Those of the decoder."""
        return prefixed("decoder", self.decoder.widths())

    def droppable(self) -> list[str]:
        """The decoder's blocks that may be left out."""
        return [f"decoder.{name}" for name in self.decoder.droppable()]

    @staticmethod
    def fit(config: dict[str, Any], target: Target, targets: np.ndarray) -> dict[str, Any]:  # noqa: ARG004 - one signature for every task
        """The config completed from the target: tokenizer, vocabulary, and one token more than the longest training text."""
        features = target.features
        known = {"tokenizer": features.tokenizer.state(), "vocabulary": features.tokenizer.vocabulary}
        return {"length": features.length + 1, **config, **known}


def _real(told: Int[Tensor, "told length"]) -> Bool[Tensor, "told length"]:
    """A text's tokens, and the end that closes it."""
    ends = (told == 0).long()
    return ends.cumsum(-1) - ends == 0
