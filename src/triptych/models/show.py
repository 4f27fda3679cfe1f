"""`triptych inspect`: a model's components and layers for people and as JSON."""

from typing import Any

from triptych import console
from triptych.models.components import components
from triptych.models.store import Loaded
from triptych.models.summary import summarize


def describe(loaded: Loaded) -> dict[str, Any]:
    """Components, weight layers, and the names that a plan may use for widths and blocks."""
    model = loaded.model
    rows = summarize(model)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "macs": sum(row.macs for row in rows),
        "components": [
            {"name": c.name, "role": c.role, "modalities": c.modalities, "parameters": c.parameters}
            for c in components(model)
        ],
        "layers": [
            {"name": r.name, "kind": r.kind, "output": r.output, "parameters": r.parameters, "macs": r.macs}
            for r in rows
        ],
        "widths": {width.name: width.units for width in model.widths()},
        "blocks": model.droppable(),
        "quantized": {
            name: {"bits": q.scheme.weight.bits if q.scheme.weight else None, "activation": q.scheme.activation}
            for name, q in loaded.quantized.items()
        },
    }


def show(description: dict[str, Any]) -> None:
    """Two tables and a line of totals."""
    console.table(
        "components",
        ["component", "role", "modalities", "parameters"],
        [[c["name"], c["role"], ", ".join(c["modalities"]), f"{c['parameters']:,}"] for c in description["components"]],
    )
    console.table(
        "layers",
        ["layer", "kind", "output", "parameters", "multiply-adds"],
        [
            [r["name"], r["kind"], " x ".join(map(str, r["output"])), f"{r['parameters']:,}", f"{r['macs']:,}"]
            for r in description["layers"]
        ],
    )
    console.say(f"{description['parameters']:,} parameters, {description['macs']:,} multiply-adds a sample")
