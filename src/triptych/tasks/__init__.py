"""What the model is asked for: one file a task, holding its head, its loss and its metrics.

A task is a module with a ``Config``, ``forward(fused) -> outputs``, ``loss``, ``scores`` (one number a row; their mean is the
quality that the gate protects), ``soft_scores`` (the same before an answer is decided on), ``metrics`` and ``answers``.
``reads = "tokens"`` asks for ``forward(memory, mask)`` instead: the tokens of all encoders; ``"modalities"`` for their
vectors, unfused. ``forced = True`` says that the outputs
may be told something of the labels (each token's true predecessors, a clip's true length), which a finished model has to find itself.
A task with ``start`` and ``step`` writes token by token. ``numbers = True`` says that outputs are no logits. ``answers`` of tasks that
make sounds hold a ``sound`` and its ``rate`` beside the ``answer`` in words, those of tasks that draw a ``picture``. ``finish()`` takes out
what only training needs, and returns what the config has to say of it. ``settle(outputs)`` says what
is kept of a batch's outputs, and is then what scores, metrics and answers are made of; ``divergence(outputs, reference)`` how far outputs
lie from those of another model, where neither KL nor squares would do.
"""

from typing import Any

import numpy as np

from triptych.tasks.classify import Classify
from triptych.tasks.detect import Detect
from triptych.tasks.draw import Draw
from triptych.tasks.regress import Regress
from triptych.tasks.retrieve import Retrieve
from triptych.tasks.segment import Segment
from triptych.tasks.speak import Speak
from triptych.tasks.transcribe import Transcribe
from triptych.tasks.write import Write

Task = Classify | Detect | Draw | Regress | Retrieve | Segment | Speak | Transcribe | Write


def settled(task: Any, outputs: np.ndarray) -> np.ndarray:
    """What is kept of a batch's outputs."""
    return task.settle(outputs) if hasattr(task, "settle") else outputs


__all__ = [
    "Classify",
    "Detect",
    "Draw",
    "Regress",
    "Retrieve",
    "Segment",
    "Speak",
    "Task",
    "Transcribe",
    "Write",
    "settled",
]
