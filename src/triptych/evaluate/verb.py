"""`triptych evaluate`: one model, or two on the same rows."""

from functools import partial
from pathlib import Path
from typing import Any

from triptych import console
from triptych.data.samples import Samples
from triptych.engines.openvino import OpenVINOEngine
from triptych.engines.torch import TorchEngine
from triptych.errors import InputError
from triptych.evaluate.bootstrap import paired_bootstrap
from triptych.evaluate.quality import Quality, measure
from triptych.evaluate.size import size_bytes
from triptych.evaluate.speed import latency
from triptych.models.store import Loaded, read_model

ENGINES = ("openvino", "torch")


def evaluate_models(
    model: Path, data: Path, *, against: Path | None = None, split: str = "test", engine: str = "openvino"
) -> dict[str, Any]:
    """Quality under every condition, bytes and latency; with `against`, the share of its quality that is kept."""
    if engine not in ENGINES:
        raise InputError(f"There is no engine {engine!r}.", f"Choose one of: {', '.join(ENGINES)}.")
    found: dict[str, Any] = {}
    qualities: list[Quality] = []
    groups: list[Any] = []
    for role, folder in (("model", model), ("against", against)):
        if folder is None:
            continue
        loaded = read_model(folder)
        splits = loaded.splits(data)
        samples = Samples(splits.table(split), loaded.processor, splits.schema)
        groups = list(samples.groups.values())
        run = engine_for(loaded, samples, engine)
        quality = measure(run, loaded.model.task, samples, label=f"evaluate {folder}")
        one = samples.batch([0])
        speed = latency(partial(run, one.inputs, one.presence))
        qualities.append(quality)
        found[role] = {
            "folder": str(folder),
            "bytes": size_bytes(folder),
            "latency_ms": {"p50": speed.p50_ms, "p95": speed.p95_ms},
            "quality": quality.report(),
            "metrics": quality.metrics,
        }
        _show(str(folder), quality, found[role])
    if len(qualities) == 2:
        kept = paired_bootstrap(qualities[1].scores["all"], qualities[0].scores["all"], groups, seed=0)
        found["kept"] = {"kept": kept.point, "interval": [kept.low, kept.high]}
        console.say(
            f"{model} keeps {kept.point:.1%} of the quality of {against} (95 % interval {kept.low:.1%} to {kept.high:.1%})"
        )
    return found


def engine_for(loaded: Loaded, samples: Samples, engine: str) -> Any:
    """The engine that runs a model that was read from a folder."""
    if engine == "torch":
        return TorchEngine(loaded.model)
    first = samples.batch([0])
    return OpenVINOEngine(loaded.model, (first.inputs, first.presence), loaded.quantized)


def _show(title: str, quality: Quality, found: dict[str, Any]) -> None:
    rows: list[list[object]] = [[name.replace(":", " "), f"{quality.mean(name):.4f}"] for name in quality.scores]
    rows += [[name, f"{value:.4f}"] for name, value in quality.metrics.items() if name != quality.metric]
    rows += [["bytes", f"{found['bytes']:,}"], ["latency p50", f"{found['latency_ms']['p50']:.3f} ms"]]
    console.table(title, ["condition", quality.metric], rows)
