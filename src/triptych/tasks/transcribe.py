"""Say which tokens a sequence spells, in order: connectionist temporal classification (CTC).

Head: one linear layer to logits over the vocabulary at every place of the memory; id 0 is the blank. Loss: -log of the summed
probability of all ways to place the tokens with blanks between them. A text is read off greedily: the likeliest id of each place,
repeats merged, blanks left out; or with beams and an n-gram of the training texts (see `decoders.ctc`), from what any engine returns.
Quality: one of those in `wording`.

Source: Graves et al., Connectionist Temporal Classification, ICML 2006.
"""

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.data.target import Target
from triptych.decoders.ctc import Search, read_off, search_for
from triptych.decoders.ngram import NGram, count
from triptych.registry import register
from triptych.structure import Settings, Width
from triptych.tasks.wording import METRICS, Score, Worded, Wording


@register("task", "transcribe")
class Transcribe(Worded):
    """Logits over tokens and the blank at each place; there must be at least as many places as tokens and repeats."""

    class Config(Settings):
        """`beams` texts are followed at once; `ngram` tokens in a row are counted in the training texts (0: none are), and their
        log-probability counts `ngram_weight` times. `token_bonus` is for each token, as an n-gram makes texts short. What the data says is
        filled in by `fit`.
        """

        tokenizer: dict[str, Any] = {}
        vocabulary: PositiveInt = 2
        score: Score = "words"
        beams: PositiveInt = 1
        ngram: NonNegativeInt = 0
        ngram_weight: float = Field(0.5, gt=0)
        token_bonus: float = 0.0
        counts: dict[str, PositiveInt] = {}
        dropout: float = Field(0.0, ge=0, lt=1)

    reads: ClassVar[Literal["tokens"]] = "tokens"

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.config = config
        self.metric = METRICS[config.score]
        self.wording = Wording(config.tokenizer, config.score)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(width, config.vocabulary)
        language = NGram(config.counts, config.vocabulary) if config.counts else None
        self.search = Search(config.beams, language, config.ngram_weight, config.token_bonus)

    def forward(
        self, memory: Float[Tensor, "batch places width"], mask: Bool[Tensor, "batch places"]
    ) -> Float[Tensor, "batch places vocabulary"]:
        """The logits; a place that is padding says blank."""
        logits = self.output(self.dropout(memory))
        blank = F.one_hot(torch.zeros_like(mask, dtype=torch.int64), logits.shape[-1]).to(logits) * 100.0
        return torch.where(mask.unsqueeze(-1), logits, blank)

    def loss(
        self, logits: Float[Tensor, "batch places vocabulary"], labels: Int[Tensor, "batch references tokens"]
    ) -> Float[Tensor, ""]:
        """CTC of the first reference, in nats a token; a text that cannot be placed counts nothing."""
        told = labels[:, 0]
        places = torch.full((len(logits),), logits.shape[1])
        lengths = (told != 0).sum(-1)
        return F.ctc_loss(logits.log_softmax(-1).transpose(0, 1), told, places, lengths, zero_infinity=True)

    def widths(self) -> list[Width]:
        """None: what the head reads is the projectors'."""
        return []

    def settle(self, logits: Float[np.ndarray, "rows places vocabulary"]) -> Int[np.ndarray, "rows places"]:
        """The ids that are spelled: all that is kept of a batch."""
        greedy = self.search.beams == 1 and self.search.language is None
        return read_off(logits) if greedy else search_for(logits, self.search)

    @staticmethod
    def fit(config: dict[str, Any], target: Target, targets: np.ndarray) -> dict[str, Any]:
        """The config completed from the target: its tokenizer and vocabulary, and counts of the first reference of each row."""
        features = target.features
        known = {"tokenizer": features.tokenizer.state(), "vocabulary": features.tokenizer.vocabulary}
        order = config.get("ngram", 0)
        counts = count([ids[ids != 0].tolist() for ids in targets[:, 0]], order) if order else {}
        return {**config, **known, "counts": counts}
