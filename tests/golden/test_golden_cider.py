"""CIDEr-D against a slow twin that follows the paper's equations with plain vectors over all n-grams."""

import math

import numpy as np

from triptych.tasks.cider import cider_d


def slow(candidates, references):
    def count(tokens, n):
        grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
        return {gram: grams.count(gram) for gram in grams}

    scores = []
    for candidate, told in zip(candidates, references, strict=True):
        by_order = []
        for n in range(1, 5):
            every = sorted({g for t in [candidate, *(r for row in references for r in row)] for g in count(t, n)})
            df = {g: sum(any(g in count(r, n) for r in row) for row in references) for g in every}
            idf = np.array([math.log(len(candidates)) - math.log(max(1, df[g])) for g in every])
            ours = np.array([count(candidate, n).get(g, 0) for g in every]) * idf
            values = []
            for reference in told:
                theirs = np.array([count(reference, n).get(g, 0) for g in every]) * idf
                lengths = np.linalg.norm(ours) * np.linalg.norm(theirs)
                cosine = np.minimum(ours, theirs) @ theirs / lengths if lengths > 0 else 0.0
                values.append(10 * cosine * math.exp(-((len(candidate) - len(reference)) ** 2) / 72))
            by_order.append(np.mean(values))
        scores.append(np.mean(by_order))
    return np.array(scores)


def test_cider_equals_its_slow_twin():
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows = int(rng.integers(1, 6))

        def text():
            return [f"w{i}" for i in rng.integers(0, 6, int(rng.integers(0, 9)))]

        candidates = [text() for _ in range(rows)]
        references = [[text() for _ in range(int(rng.integers(1, 4)))] for _ in range(rows)]
        np.testing.assert_allclose(
            cider_d(candidates, references), slow(candidates, references), rtol=1e-10, atol=1e-12
        )


def test_a_reference_itself_scores_ten_where_others_say_other_things():
    candidates = [["a", "red", "square", "here"], ["two", "blue", "dogs", "run"]]
    np.testing.assert_allclose(cider_d(candidates, [[c] for c in candidates]), 10.0)
