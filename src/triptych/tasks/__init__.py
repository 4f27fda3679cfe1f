"""What the model is asked for: one file a task, holding its head, its loss and its metrics.

A task is a module with a ``Config``, ``forward(fused) -> outputs``, ``loss``, ``scores`` (one number a row; their mean is the
quality that the gate protects), ``soft_scores`` (the same before an answer is decided on), ``metrics`` and ``answers``.
``reads = "tokens"`` asks for ``forward(memory, mask)`` instead: the tokens of all encoders. ``forced = True`` says that the outputs
may be told something of the labels (each token's true predecessors, a clip's true length), which a finished model has to find itself.
A task with ``start`` and ``step`` writes token by token. ``numbers = True`` says that outputs are no logits. ``answers`` of tasks that
make sounds hold a ``sound`` and its ``rate`` beside the ``answer`` in words.
"""

from triptych.tasks.classify import Classify
from triptych.tasks.regress import Regress
from triptych.tasks.speak import Speak
from triptych.tasks.transcribe import Transcribe
from triptych.tasks.write import Write

Task = Classify | Regress | Speak | Transcribe | Write

__all__ = ["Classify", "Regress", "Speak", "Task", "Transcribe", "Write"]
