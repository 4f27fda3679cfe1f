"""How good written texts are: what the tasks that write have in common.

Each row has one text and one or more references. A row's score is chosen by name; their mean is the quality that the gate protects:

    exact       1 where the text equals a reference, else 0
    words       1 - N e_i / sum_j n_j, with e_i words to insert, delete or replace and n_j words to say: the mean is 1 - WER
    characters  the same of characters: the mean is 1 - CER
    cider       CIDEr-D
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int
from torch import nn

from triptych.data.tokenizer import Lookup, Subword, load_tokenizer
from triptych.tasks.cider import cider_d

Score = Literal["exact", "words", "characters", "cider"]
METRICS: dict[Score, str] = {
    "exact": "exact match",
    "words": "word accuracy",
    "characters": "character accuracy",
    "cider": "CIDEr-D",
}


class Wording:
    """Ids as texts, and texts against references.

    Args:
        tokenizer: the state of the target's tokenizer.
        score: what a row is worth.
    """

    def __init__(self, tokenizer: dict[str, Any], score: Score) -> None:
        self.tokenizer: Lookup | Subword = load_tokenizer(tokenizer)
        self.score: Score = score

    def texts(self, ids: Int[np.ndarray, "rows length"]) -> list[str]:
        """The text of each row, up to its first 0."""
        return [self.tokenizer.decode(_before_end(row)) for row in ids]

    def told(self, labels: Int[np.ndarray, "rows references tokens"]) -> list[list[str]]:
        """The references of each row; rows of zeros, which fill the array up, are none."""
        return [[self.tokenizer.decode(_before_end(ids)) for ids in row if ids.any()] for row in labels]

    def scores(
        self, ids: Int[np.ndarray, "rows length"], labels: Int[np.ndarray, "rows references tokens"]
    ) -> Float64[np.ndarray, " rows"]:
        """The score of each row."""
        texts, told = self.texts(ids), self.told(labels)
        if self.score == "exact":
            return np.array(
                [text in references for text, references in zip(texts, told, strict=True)], dtype=np.float64
            )
        if self.score == "cider":
            return cider_d([text.split() for text in texts], [[one.split() for one in row] for row in told])
        errors, lengths = _errors(texts, told, self.score)
        return 1.0 - errors * len(errors) / max(lengths.sum(), 1.0)

    def metrics(
        self, ids: Int[np.ndarray, "rows length"], labels: Int[np.ndarray, "rows references tokens"]
    ) -> dict[str, float]:
        """Exact matches, word and character error rates, BLEU-1 to 4, ROUGE-L and CIDEr-D, by torchmetrics but for the last."""
        from torchmetrics.functional.text import bleu_score, rouge_score

        texts, told = self.texts(ids), self.told(labels)
        found = {"exact": float(np.mean([text in row for text, row in zip(texts, told, strict=True)]))}
        for name, kind in (("wer", "words"), ("cer", "characters")):
            errors, lengths = _errors(texts, told, kind)
            found[name] = float(errors.sum() / max(lengths.sum(), 1.0))
        found |= {f"bleu{n}": float(bleu_score(texts, told, n)) for n in range(1, 5)}
        rouge = rouge_score(texts, told, accumulate="best", tokenizer=str.split, normalizer=str, rouge_keys="rougeL")
        found["rouge_l"] = float(rouge["rougeL_fmeasure"])
        cider = cider_d([text.split() for text in texts], [[one.split() for one in row] for row in told])
        return found | {"cider": float(cider.mean())}


class Worded(nn.Module):
    """A task whose outputs, once settled, are the ids of a text a row."""

    wording: Wording

    def scores(
        self, ids: Int[np.ndarray, "rows length"], labels: Int[np.ndarray, "rows references tokens"]
    ) -> Float64[np.ndarray, " rows"]:
        """The chosen score of each row."""
        return self.wording.scores(ids, labels)

    def soft_scores(
        self, ids: Int[np.ndarray, "rows length"], labels: Int[np.ndarray, "rows references tokens"]
    ) -> Float64[np.ndarray, " rows"]:
        """The scores themselves: how many words or errors a text has is soft already."""
        return self.scores(ids, labels)

    def metrics(
        self, ids: Int[np.ndarray, "rows length"], labels: Int[np.ndarray, "rows references tokens"]
    ) -> dict[str, float]:
        """All metrics of `Wording`."""
        return self.wording.metrics(ids, labels)

    def answers(self, ids: Int[np.ndarray, "rows length"]) -> list[dict[str, Any]]:
        """The text of each row."""
        return [{"answer": text} for text in self.wording.texts(ids)]

    def truth(self, label: Any) -> str:
        """The references of a row of labels, one a line."""
        return "\n".join(self.wording.told(label[None])[0])


def _before_end(ids: Int[np.ndarray, " tokens"]) -> list[int]:
    ends = np.flatnonzero(ids == 0)
    return ids[: ends[0] if len(ends) else None].astype(int).tolist()


def _errors(
    texts: Sequence[str], told: Sequence[Sequence[str]], kind: str
) -> tuple[Float64[np.ndarray, " rows"], Float64[np.ndarray, " rows"]]:
    """Edits to the nearest reference, and that reference's length."""
    from torchmetrics.functional.text import edit_distance

    letters: dict[str, str] = {}  # one character a word, for distances between words

    def parts(text: str) -> str:
        if kind == "characters":
            return text
        return "".join(letters.setdefault(word, chr(len(letters) + 0x10000)) for word in text.split())

    pairs = [(row, parts(text), parts(one)) for row, text in enumerate(texts) for one in told[row]]
    edits = edit_distance([ours for _, ours, _ in pairs], [theirs for *_, theirs in pairs], reduction="none")
    nearest: dict[int, tuple[float, float]] = {}
    for (row, _, theirs), count in zip(pairs, edits.tolist(), strict=True):
        nearest[row] = min(nearest.get(row, (np.inf, 0.0)), (float(count), float(len(theirs))))
    errors, lengths = np.array([nearest[row] for row in range(len(texts))]).reshape(-1, 2).T
    return errors, lengths
