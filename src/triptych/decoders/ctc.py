"""From CTC's log-probabilities at each place to a text: the likeliest id of each place, or prefix beam search with an n-gram.

A text's probability is the sum over all ways to place its tokens with blanks (id 0) between them. Prefix beam search follows the
likeliest beginnings of texts, each with the sum over the ways that end in a blank and the sum over those that do not, and ranks them by

    log P(text | sound) + weight * log P(text) + bonus * tokens,

the second term from an n-gram of the training texts. With as many beams as there are texts nothing is missed.

Source: Graves et al., Connectionist Temporal Classification, ICML 2006; Hannun et al., First-Pass Large Vocabulary Continuous Speech
Recognition using Bi-Directional Recurrent DNNs, 2014, algorithm 1.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int

from triptych.decoders.ngram import END, UNKNOWN, NGram

Text = tuple[int, ...]


class Search(NamedTuple):
    """How a text is looked for: `beams` beginnings are followed, weighed by `language` where there is one."""

    beams: int = 1
    language: NGram | None = None
    weight: float = 0.0
    bonus: float = 0.0

    def extended(self, texts: list[Text], vocabulary: int) -> Float64[np.ndarray, "texts vocabulary"]:
        """What each token after each text adds to its score."""
        if self.language is None:
            return np.full((len(texts), vocabulary), self.bonus)
        return self.bonus + self.weight * np.stack([self.language.after(text) for text in texts])

    def ended(self, texts: list[Text]) -> Float64[np.ndarray, " texts"]:
        """What it adds that a text ends there."""
        if self.language is None:
            return np.zeros(len(texts))
        return self.weight * np.array([self.language.after(text)[END] for text in texts])


def read_off(logits: Float[np.ndarray, "rows places vocabulary"]) -> Int[np.ndarray, "rows places"]:
    """The likeliest id of each place, repeats merged and blanks left out; 0 after a text's end."""
    allowed = logits.copy()
    allowed[..., UNKNOWN] = -np.inf  # what the vocabulary lacks cannot be spelled
    best = allowed.argmax(-1)
    changed = np.concatenate([np.ones_like(best[:, :1], dtype=bool), best[:, 1:] != best[:, :-1]], axis=1)
    spelled = (best != END) & changed
    return _rows([tuple(best[row, kept].tolist()) for row, kept in enumerate(spelled)], best.shape[1])


def search_for(logits: Float[np.ndarray, "rows places vocabulary"], search: Search) -> Int[np.ndarray, "rows places"]:
    """The text of each row that prefix beam search finds; 0 after its end."""
    chances = logits.astype(np.float64)
    chances -= np.logaddexp.reduce(chances, axis=-1, keepdims=True)
    return _rows([_best(row, search) for row in chances], logits.shape[1])


def _best(chances: Float64[np.ndarray, "places vocabulary"], search: Search) -> Text:
    """The text of one row."""
    vocabulary = chances.shape[1]
    texts: list[Text] = [()]
    blank, token = np.zeros(1), np.full(1, -np.inf)  # log-probability of the ways that end in a blank, and in a token
    added = np.zeros(1)  # by language and bonus
    for now in chances:
        if now[END] == 0.0:  # a blank for sure, as in padding: texts stay what they are
            blank, token = np.logaddexp(blank, token), np.full(len(texts), -np.inf)
            continue
        count, both = len(texts), np.logaddexp(blank, token)
        last = np.array([text[-1] if text else END for text in texts])
        longer = both[:, None] + now
        longer[np.arange(count), last] = blank + now[last]  # a token twice running needs a blank between
        longer[:, [END, UNKNOWN]] = -np.inf
        blank, token = both + now[END], token + now[last]
        place = {text: number for number, text in enumerate(texts)}
        for number, text in enumerate(texts):  # one beginning may be the next step of another
            parent = place.get(text[:-1]) if text else None
            if parent is not None:
                token[number] = np.logaddexp(token[number], longer[parent, text[-1]])
                longer[parent, text[-1]] = -np.inf
        grown = added[:, None] + search.extended(texts, vocabulary)
        scores = np.concatenate([np.logaddexp(blank, token) + added, (longer + grown).ravel()])
        kept = np.argsort(-scores, kind="stable")[: search.beams]
        kept = kept[scores[kept] > -np.inf]
        old, new = kept[kept < count], np.divmod(kept[kept >= count] - count, vocabulary)
        texts = [texts[i] for i in old] + [(*texts[i], int(v)) for i, v in zip(*new, strict=True)]
        blank = np.concatenate([blank[old], np.full(len(new[0]), -np.inf)])
        token = np.concatenate([token[old], longer[new]])
        added = np.concatenate([added[old], grown[new]])
    return texts[int((np.logaddexp(blank, token) + added + search.ended(texts)).argmax())]


def _rows(texts: list[Text], length: int) -> Int[np.ndarray, "rows places"]:
    ids = np.zeros((len(texts), length), dtype=np.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
    return ids
