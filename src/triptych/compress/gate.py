"""The gate: does the compressed model keep what was promised, for the whole and for each modality?

Kept quality is quality after over quality before, on the same held-out rows. What modality m still contributes is

    kept_m = (Q(all) - Q(without m)) after / (Q(all) - Q(without m)) before.

The lower bound of a paired 95 % interval decides, and the worst modality counts as much as the whole. A modality that contributed
nothing before has nothing to keep; it is named, not judged.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

from triptych.evaluate.bootstrap import Interval, kept_contribution, paired_bootstrap
from triptych.evaluate.quality import Quality
from triptych.structure import Settings


class Contract(Settings):
    """The least share to keep, as a lower 95 % bound: of the quality, and of every modality's contribution."""

    keep: float
    keep_modality: float


@dataclass(frozen=True)
class Verdict:
    """What was kept, and whether that honours the contract."""

    contract: Contract
    kept: Interval
    modalities: dict[str, Interval]

    @property
    def broken(self) -> list[str]:
        """Each broken promise in words; empty where all are kept."""
        found = []
        if self.kept.low < self.contract.keep:
            found.append(
                f"quality kept {self.kept.point:.1%}, lower bound {self.kept.low:.1%} < {self.contract.keep:.1%}"
            )
        for name, interval in self.modalities.items():
            if np.isfinite(interval.point) and interval.low < self.contract.keep_modality:
                found.append(
                    f"contribution of {name} kept {interval.point:.1%}, lower bound {interval.low:.1%} < {self.contract.keep_modality:.1%}"
                )
        return found

    def report(self) -> dict[str, object]:
        """The `contract` object of report.json."""
        return {
            "keep": self.contract.keep,
            "keep_modality": self.contract.keep_modality,
            "kept": self.kept.point,
            "interval": [self.kept.low, self.kept.high],
            "per_modality": {n: {"kept": i.point, "interval": [i.low, i.high]} for n, i in self.modalities.items()},
            "verdict": "broken" if self.broken else "kept",
        }


def judge(
    contract: Contract, before: Quality, after: Quality, groups: Sequence[Shaped[np.ndarray, " rows"]], seed: int = 0
) -> Verdict:
    """Compare two models that were scored on the same rows under the same conditions."""
    kept = paired_bootstrap(before.scores["all"], after.scores["all"], groups, seed=seed)
    modalities = {
        condition.split(":")[1]: kept_contribution(
            before.scores["all"],
            before.scores[condition],
            after.scores["all"],
            after.scores[condition],
            groups,
            seed=seed,
        )
        for condition in before.scores
        if condition.startswith("without:")
    }
    return Verdict(contract, kept, modalities)
