"""Triptych builds, trains and compresses multimodal models, and proves that every modality survived.

Names are imported when they are first used, so that `import triptych` and `triptych --help` cost nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PLACES = {
    "Budget": "triptych.compress.planner",
    "Contract": "triptych.compress.gate",
    "Plan": "triptych.compress.plan",
    "Recipe": "triptych.recipe",
    "Samples": "triptych.data.samples",
    "check_tables": "triptych.data.check:check",
    "components": "triptych.models.components",
    "compress_model": "triptych.compress.run:compress",
    "explain": "triptych.evaluate.explain.verb",
    "load": "triptych.models.store:read_model",
    "measure": "triptych.evaluate.quality",
    "read_plan": "triptych.compress.plan",
    "read_recipe": "triptych.recipe",
    "read_splits": "triptych.data.splits",
    "register": "triptych.registry",
    "summarize": "triptych.models.summary",
    "train_data": "triptych.train.run",
    "train_recipe": "triptych.train.run",
    "verify": "triptych.artifact",
    "write_report": "triptych.report.page",
}

__all__ = ["__version__", *_PLACES]  # noqa: PLE0604 - the names are strings, made from the table above


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'triptych' has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    return getattr(import_module(module), attribute or name)
