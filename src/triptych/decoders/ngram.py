"""How likely a token is after those before it, counted in training texts: an n-gram with Witten-Bell smoothing.

    P(w | h) = (c(h w) + t(h) P(w | h')) / (c(h) + t(h))

c counts what followed the history h in training, t(h) says how many different tokens did, and h' is h without its first token; the
shortest history backs off to all tokens alike. A text begins after tokens of id 0, which also end it; id 1, unknown, has no share.

Source: Witten & Bell, The Zero-Frequency Problem, IEEE Transactions on Information Theory 1991; interpolated as in Chen & Goodman, An
Empirical Study of Smoothing Techniques for Language Modeling, 1998, section 2.6.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float64

END, UNKNOWN = 0, 1


class NGram:
    """The model of order n that counts of n tokens in a row make.

    Args:
        counts: by n ids with blanks between them, how often they stand in a row in the training texts, as `count` finds them.
        vocabulary: ids, 0 and 1 among them.
    """

    def __init__(self, counts: Mapping[str, int], vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self.order = len(next(iter(counts)).split())
        self._followed: dict[tuple[int, ...], dict[int, int]] = defaultdict(Counter)
        for told, count in counts.items():
            *history, token = map(int, told.split())
            for start in range(self.order):
                self._followed[tuple(history[start:])][token] += count
        self._known: dict[tuple[int, ...], Float64[np.ndarray, " vocabulary"]] = {}

    def after(self, text: Sequence[int]) -> Float64[np.ndarray, " vocabulary"]:
        """Log-probabilities of each id after a text, 0 being its end."""
        history = (*[END] * (self.order - 1), *text)[len(text) :]
        with np.errstate(divide="ignore"):  # of the unknown
            return np.log(self._after(history))

    def _after(self, history: tuple[int, ...]) -> Float64[np.ndarray, " vocabulary"]:
        if history in self._known:
            return self._known[history]
        if history:
            chances = self._after(history[1:])
        else:
            chances = np.full(self.vocabulary, 1 / (self.vocabulary - 1))
            chances[UNKNOWN] = 0
        if history in self._followed:
            seen, kinds = np.zeros(self.vocabulary), len(self._followed[history])
            for token, count in self._followed[history].items():
                seen[token] = count
            chances = self._known[history] = (seen + kinds * chances) / (seen.sum() + kinds)
        return chances


def count(texts: Iterable[Sequence[int]], order: int) -> dict[str, int]:
    """How often `order` ids stand in a row in the texts, their ends included; texts with unknown tokens count nothing."""
    found: Counter[str] = Counter()
    for text in texts:
        if UNKNOWN not in text:
            padded = [END] * (order - 1) + [int(token) for token in text] + [END]
            found.update(" ".join(map(str, padded[place : place + order])) for place in range(len(text) + 1))
    return dict(sorted(found.items()))
