"""Every compression method alone, and combined, on the demo's trained model: bytes, latency, accuracy, contributions kept."""

import time
from typing import Any

from benchmarks import record
from benchmarks.odd_one_out import WORK, data, held_out, recipe, trained
from triptych.compress import plan as plans
from triptych.compress.gate import Contract
from triptych.compress.planner import Budget
from triptych.compress.quantize.layers import weights
from triptych.compress.run import compress
from triptych.evaluate.size import size_bytes
from triptych.models.store import Loaded
from triptych.report.build import measure_latency

OPEN = Contract(keep=0.0, keep_modality=-1e9)  # nothing is refused here; the figures speak
STEPS = 150


def methods(original: Loaded) -> dict[str, plans.Plan]:
    """Plans by name. The recovering ones train for the same number of steps."""
    model = original.model
    views = weights(model)
    widths = {w.name: w.units for w in model.widths()}

    def quantise(word: str, method: str = "gptq", embedding: str = "w8g32") -> plans.Quantise:
        layers = {n: (embedding if v.kind in {"embedding", "recurrent"} else word) for n, v in views.items()}
        return plans.Quantise(method=method, layers=layers)

    def narrow(share: float, importance: str = "taylor", *, refit: bool = True) -> plans.Prune:
        keep = {n: max(1, round(u * share / 8) * 8) if u >= 32 else max(1, round(u * share)) for n, u in widths.items()}
        return plans.Prune(importance=importance, refit=refit, keep=keep)

    distil = plans.Distil(steps=STEPS)
    labels_only = plans.Distil(steps=STEPS, losses={"labels": 1.0})
    alone: dict[str, tuple[plans.Pass, ...]] = {
        "int8 weights and activations": (quantise("w8a8"),),
        "int8 weights": (quantise("w8"),),
    }
    for bits in (4, 3, 2):
        for method in ("rtn", "gptq"):
            alone[f"int{bits} weights, groups of 32, {method}"] = (quantise(f"w{bits}g32", method, f"w{bits}g32"),)
    alone |= {
        "half width, magnitude, no refit": (narrow(0.5, "magnitude", refit=False),),
        "half width, magnitude, refit": (narrow(0.5, "magnitude"),),
        "half width, taylor, no refit": (narrow(0.5, refit=False),),
        "half width, taylor, refit": (narrow(0.5),),
        "half width, then training on labels alone": (narrow(0.5), labels_only),
        "half width, then distillation": (narrow(0.5), distil),
        "70 % sparse, then distillation": (plans.Sparsify(sparsity=0.7), distil),
        "half width, distillation, int8": (narrow(0.5), distil, quantise("w8a8")),
        "half width, distillation, int4 weights and int8 activations": (narrow(0.5), distil, quantise("w4a8")),
    }
    return {name: plans.Plan(passes=steps) for name, steps in alone.items()}


def main() -> None:
    """Carry out every plan; finished rows are kept."""
    source = data()
    model, _ = trained("original", recipe(source))
    rows: list[dict[str, Any]] = record.read("methods").get("rows", [])
    done = {row["method"] for row in rows}
    test = held_out(model)
    for number, (name, plan) in enumerate(methods(model.loaded).items()):
        if name in done:
            continue
        began = time.monotonic()
        out = WORK / "methods" / str(number)
        outcome = compress(model.loaded, model.splits, out, budget=Budget(), contract=OPEN, plan=plan)
        minutes = (time.monotonic() - began) / 60
        speed, _ = measure_latency(model.loaded, outcome.loaded, test)
        assert model.loaded.folder is not None
        before = size_bytes(model.loaded.folder)
        rows.append(
            {
                "method": name,
                "bytes": size_bytes(out),
                "smaller": before / size_bytes(out),
                "latency_ms": {engine: item.p50_ms for engine, item in speed.items()},
                "accuracy": outcome.after.mean(),
                "kept": {
                    "point": outcome.verdict.kept.point,
                    "interval": [outcome.verdict.kept.low, outcome.verdict.kept.high],
                },
                "modalities": {
                    n: {"probability": k.interval.point, "answers": k.answers.point}
                    for n, k in outcome.verdict.modalities.items()
                },
                "minutes": minutes,
            }
        )
        record.write(
            "methods", {"steps": STEPS, "original": {"bytes": before, "accuracy": outcome.before.mean()}, "rows": rows}
        )


if __name__ == "__main__":
    main()
