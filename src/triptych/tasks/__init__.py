"""What the model is asked for: one file a task, holding its head, its loss and its metrics.

A task is a module with a ``Config``, ``forward(fused) -> outputs``, ``loss``, ``scores`` (one number a row; their mean is the
quality that the gate protects), ``soft_scores`` (the same before an answer is decided on), ``metrics`` and ``answers``.
"""

from triptych.tasks.classify import Classify
from triptych.tasks.regress import Regress

Task = Classify | Regress

__all__ = ["Classify", "Regress", "Task"]
