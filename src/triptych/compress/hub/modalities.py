"""How much the tokens of each modality count in second moments: some weights are tried, the held-out answers decide.

A picture brings hundreds of tokens and a question ten, so the picture's decide what rounding spares unless they are weighed
(MBQ, arXiv 2412.19509; VLM-PTQ, CVPR 2026). Candidates are w_m = (fewest tokens / tokens of m)^b: b = 0 counts tokens, b = 1 gives
every modality the same share. Each is tried by really rounding the components where modalities meet on three quarters of the
calibration samples; the last quarter says which answers as the original does. Counting tokens wins a tie.
"""

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from triptych import console
from triptych.compress import blockwise
from triptych.compress.driver import Work, drive, undo
from triptych.compress.journal import Journal
from triptych.compress.quantize.layers import LayerScheme
from triptych.errors import InputError
from triptych.evaluate.agreement import Answers, answers, compare
from triptych.models.components import Component
from triptych.models.merge import merged
from triptych.models.stream import Stream
from triptych.models.tiny_batch import ModelBatch

POWERS = (0.0, 0.5, 1.0)
ASIDE = 4  # one sample in so many judges
JOINED = 8  # samples of one shape that are one batch


def choose_weights(
    stream: Stream, rows: Sequence[ModelBatch], work: Work, parts: Sequence[Component]
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """The weights of the best candidate, and what was found of each.

    Args:
        stream: the original model; it is left as it was.
        rows: calibration samples.
        work: what is to be done.
        parts: the components.

    Raises:
        InputError: no component is to be rounded in which the tokens of two modalities meet.
    """
    counts: Counter[str] = Counter()
    for batch in rows:
        if batch.tokens is not None:
            codes = Counter(batch.tokens.flatten().tolist())
            counts.update({name: codes[place] for place, name in enumerate(batch.names) if codes[place]})
    schemes = {
        name: _quick(scheme)
        for name, scheme in work.schemes.items()
        if any(part.owns(name) and len(part.modalities) > 1 for part in parts)
    }
    if len(counts) < 2 or not schemes:
        raise InputError(
            "No component that is rounded reads the tokens of several modalities, so there is nothing to weigh.",
            "Leave --modality-weights out.",
        )
    judges = list(rows[::ASIDE])
    fitted = merged([batch for place, batch in enumerate(rows) if place % ASIDE], JOINED)

    def ask() -> Answers:
        return answers(lambda inputs: stream.model(**inputs), judges, ["all"])

    original, found = ask(), list[dict[str, Any]]()
    with console.progress("weigh the modalities", len(POWERS)) as advance:
        for power in POWERS:
            weights = _weights(counts, power)
            with tempfile.TemporaryDirectory(prefix="triptych-") as folder:
                trial = replace(work, schemes=schemes, modality_weights=weights, migration=None)
                for _ in drive(stream, fitted, trial, Journal(Path(folder) / "work", {})):
                    pass
                divergence = float(compare(original, ask()).divergence.mean())
                undo(stream, schemes)
            found.append({"power": power, "weights": weights, "divergence": divergence})
            advance(1, note=f"power {power:g}: divergence {divergence:.4g}")
    best = min(found, key=lambda one: one["divergence"])
    return best["weights"], found


def _weights(counts: Mapping[str, int], power: float) -> dict[str, float]:
    """What a token of each modality counts; none where all count alike."""
    fewest = min(counts.values())
    return {name: round((fewest / count) ** power, 4) for name, count in sorted(counts.items())} if power else {}


def _quick(scheme: LayerScheme) -> LayerScheme:
    """The same grid without what would take long to learn."""
    return scheme.model_copy(update={"method": "gptq"}) if scheme.method == blockwise.METHOD else scheme
