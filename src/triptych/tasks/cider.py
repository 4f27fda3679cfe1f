"""CIDEr-D: how much a text says what people said of the same thing, and others did not say.

Every n-gram w (n = 1 to 4) of a text counts g_w = count_w log(N / max(1, df_w)), with df_w of the N rows having it in a reference.
For a candidate c, a reference r and their numbers of tokens l,

    CIDEr-D_n(c, r) = 10 exp(-(l_c - l_r)^2 / (2 6^2)) min(g_c, g_r) . g_r / (|g_c| |g_r|)

averaged over the references and over n.

Source: Vedantam et al., CIDEr: Consensus-based Image Description Evaluation, CVPR 2015, equation 4 and section 7; count_w not
divided by the text's length, as in the authors' code.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

ORDERS, DEVIATION = 4, 6.0
Tokens = Sequence[str]


def cider_d(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> Float64[np.ndarray, " rows"]:
    """The score of each candidate, 10 at most; document frequencies are those of the given references.

    Args:
        candidates: the tokens of each row's text.
        references: for each row the tokens of one or more texts.
    """
    grams = [[_grams(tokens) for tokens in told] for told in references]
    frequency = Counter(gram for told in grams for gram in {g for counts in told for by_n in counts for g in by_n})
    rows = math.log(max(len(candidates), 1))

    def weigh(counts: Sequence[Counter[Tokens]]) -> list[dict[Tokens, float]]:
        return [{g: c * (rows - math.log(max(1, frequency[g]))) for g, c in by_n.items()} for by_n in counts]

    scores = np.zeros(len(candidates))
    for row, (candidate, told) in enumerate(zip(candidates, references, strict=True)):
        ours = weigh(_grams(candidate))
        for tokens, counts in zip(told, grams[row], strict=True):
            penalty = math.exp(-((len(candidate) - len(tokens)) ** 2) / (2 * DEVIATION**2))
            alike = sum(_cosine(a, b) for a, b in zip(ours, weigh(counts), strict=True)) / ORDERS
            scores[row] += 10.0 * penalty * alike / len(told)
    return scores


def _grams(tokens: Tokens) -> list[Counter[Tokens]]:
    return [Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)) for n in range(1, ORDERS + 1)]


def _cosine(ours: dict[Tokens, float], theirs: dict[Tokens, float]) -> float:
    """The clipped product over both lengths; 0 where either has none."""
    lengths = [math.sqrt(sum(v * v for v in one.values())) for one in (ours, theirs)]
    if not all(lengths):
        return 0.0
    return sum(min(ours.get(g, 0.0), v) * v for g, v in theirs.items()) / (lengths[0] * lengths[1])
