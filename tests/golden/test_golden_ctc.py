"""Prefix beam search and n-grams against their slow twins: every alignment of every text, and counting from the texts anew."""

from itertools import pairwise, product

import numpy as np
import pytest

from triptych.decoders.ctc import Search, search_for
from triptych.decoders.ngram import NGram, count

VOCABULARY, PLACES = 5, 5
TEXTS = [[2, 3, 2, 3], [2, 3, 4], [4, 4], [3], [2, 3, 2]]


def spelled(alignment):
    """The text of an alignment: repeats merged, then blanks left out."""
    merged = [alignment[0], *(b for a, b in pairwise(alignment) if a != b)]
    return tuple(token for token in merged if token != 0)


def text_chances(chances):
    """log P of every text, summed over all its alignments; id 1 is never spelled."""
    total = {}
    for alignment in product((0, 2, 3, 4), repeat=len(chances)):
        way = sum(chances[place, token] for place, token in enumerate(alignment))
        text = spelled(alignment)
        total[text] = np.logaddexp(total.get(text, -np.inf), way)
    return total


def witten_bell(texts, order, history, token):
    """P(token | history) by counting in the texts, which begin with zeros and end with one."""
    padded = [(0,) * (order - 1) + tuple(text) + (0,) for text in texts]
    ends = [(text, place) for text in padded for place in range(order - 1, len(text))]
    followed = [text[place] for text, place in ends if text[place - len(history) : place] == history]
    uniform = 0.0 if token == 1 else 1 / (VOCABULARY - 1)
    backed = witten_bell(texts, order, history[1:], token) if history else uniform
    kinds = len(set(followed))
    return (followed.count(token) + kinds * backed) / (len(followed) + kinds) if followed else backed


@pytest.mark.parametrize("order", [1, 2, 3])
def test_ngrams_are_counted_and_smoothed(order):
    language = NGram(count(TEXTS, order), VOCABULARY)
    for text in ((), (2,), (2, 3), (2, 3, 2), (4, 4, 4), (3, 4, 2, 2)):
        history = ((0,) * (order - 1) + text)[len(text) :]
        expected = [witten_bell(TEXTS, order, history, token) for token in range(VOCABULARY)]
        found = np.exp(language.after(text))
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        assert found.sum() == pytest.approx(1)
        assert found[1] == 0


@pytest.mark.parametrize(("order", "weight", "bonus"), [(0, 0.0, 0.0), (0, 0.0, 0.9), (2, 0.7, 0.0), (3, 1.5, 1.2)])
def test_with_enough_beams_nothing_is_missed(order, weight, bonus):
    language = NGram(count(TEXTS, order), VOCABULARY) if order else None
    differs = 0
    for seed in range(12):
        logits = np.random.default_rng(seed).normal(0, 2, (1, PLACES, VOCABULARY)).astype(np.float32)
        logits[..., 1] += 3  # the unknown is likely, and never written
        chances = logits[0] - np.logaddexp.reduce(logits[0].astype(np.float64), axis=-1, keepdims=True)

        def score(text, chance):
            said = sum(language.after(text[:i])[token] for i, token in enumerate((*text, 0))) if language else 0.0
            return chance + weight * said + bonus * len(text)

        texts = text_chances(chances)
        best = max(texts, key=lambda text: score(text, texts[text]))
        found = search_for(logits, Search(10_000, language, weight, bonus))[0]
        assert tuple(found[found != 0]) == best
        padded = np.pad(logits, ((0, 0), (0, 3), (0, 0)))
        padded[:, PLACES:, 0] = 100  # as `Transcribe` says of places that are padding
        assert search_for(padded, Search(10_000, language, weight, bonus))[0, :PLACES].tolist() == found.tolist()
        narrow = search_for(logits, Search(1, language, weight, bonus))[0]
        differs += tuple(narrow[narrow != 0]) != best
    assert differs  # so that what beams are for is seen
