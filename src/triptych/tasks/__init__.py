"""What the model is asked for: one file a task, holding its head, its loss and its metrics.

A task is a module with a ``Config``, ``forward(fused) -> outputs``, ``loss``, ``scores`` (one number a row; their mean is the
quality that the gate protects), ``soft_scores`` (the same before an answer is decided on), ``metrics`` and ``answers``.
``reads = "tokens"`` asks for ``forward(memory, mask)`` instead: the tokens of all encoders. ``forced = True`` says that with labels
the outputs are logits of the labels' tokens, and without them a finished text, which ``start`` and ``step`` write token by token.
"""

from triptych.tasks.classify import Classify
from triptych.tasks.regress import Regress
from triptych.tasks.transcribe import Transcribe
from triptych.tasks.write import Write

Task = Classify | Regress | Transcribe | Write

__all__ = ["Classify", "Regress", "Task", "Transcribe", "Write"]
