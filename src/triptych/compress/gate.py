"""The gate: does the compressed model keep what was promised, for the whole and for each modality?

Kept quality is quality after over quality before, on the same held-out rows. What modality m still contributes is

    kept_m = (Q(all) - Q(without m)) after / (Q(all) - Q(without m)) before.

The lower bound of a paired 95 % interval decides, and the worst modality counts as much as the whole. A modality that contributed
nothing before has nothing to keep; it is named, not judged.

Without m a classifier often has to choose between answers that are equally likely, and two good models toss that coin differently.
So the interval of kept_m is of the probabilities given to the truth, in which there is no coin, ten times narrower than that of the
answers. The answers have a say too, so that confidence alone buys nothing: where chance does not explain that kept_m falls short by
them (their whole interval lies below the promise), the promise is broken.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float64, Shaped

from triptych.evaluate.bootstrap import Interval, kept_contribution, paired_bootstrap
from triptych.evaluate.quality import Quality
from triptych.structure import Settings

Rows: TypeAlias = Float64[np.ndarray, " rows"]
Conditions: TypeAlias = Mapping[str, Rows]


class Contract(Settings):
    """The least share to keep, as a lower 95 % bound: of the quality, and of every modality's contribution."""

    keep: float
    keep_modality: float


@dataclass(frozen=True)
class Kept:
    """What is left of a modality's contribution: by the probabilities, and by the answers."""

    interval: Interval
    answers: Interval

    @property
    def judged(self) -> bool:
        """Whether the modality contributed anything before."""
        return bool(np.isfinite(self.interval.point) and np.isfinite(self.answers.point))


@dataclass(frozen=True)
class Verdict:
    """What was kept, and whether that honours the contract."""

    contract: Contract
    kept: Interval
    modalities: dict[str, Kept]

    @property
    def broken(self) -> list[str]:
        """Each broken promise in words; empty where all are kept."""
        found = []
        if self.kept.low < self.contract.keep:
            found.append(
                f"quality kept {self.kept.point:.1%}, lower bound {self.kept.low:.1%} < {self.contract.keep:.1%}"
            )
        least = self.contract.keep_modality
        for name, kept in self.modalities.items():
            low, words = kept.interval.low, f"contribution of {name} kept {kept.interval.point:.1%}"
            if kept.judged and low < least:
                found.append(f"{words}, lower bound {low:.1%} < {least:.1%}")
            elif kept.judged and kept.answers.high < least:
                point, low, high = kept.answers
                found.append(
                    f"{words} in probability, but {point:.1%} ({low:.1%} to {high:.1%}) < {least:.1%} in answers"
                )
        return found


def judge(
    contract: Contract, before: Quality, after: Quality, groups: Sequence[Shaped[np.ndarray, " rows"]], seed: int = 0
) -> Verdict:
    """Compare two models that were scored on the same rows under the same conditions."""
    kept = paired_bootstrap(before.scores["all"], after.scores["all"], groups, seed=seed)
    modalities = {}
    for condition in before.scores:
        kind, _, name = condition.partition(":")
        if kind == "without":
            interval = kept_contribution(*_four(before.soft, after.soft, condition), groups, seed=seed)
            answers = kept_contribution(*_four(before.scores, after.scores, condition), groups, seed=seed)
            modalities[name] = Kept(interval, answers)
    return Verdict(contract, kept, modalities)


def _four(before: Conditions, after: Conditions, removed: str) -> tuple[Rows, Rows, Rows, Rows]:
    """With all and without the modality, by each model."""
    return before["all"], before[removed], after["all"], after[removed]
