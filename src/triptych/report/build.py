"""From what a compression found out to the report: the numbers are looked up, the latencies are measured side by side here."""

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from triptych.compress import plan as plans
from triptych.compress.gate import Verdict
from triptych.compress.quantize.layers import QuantizedWeight, weights
from triptych.compress.quantize.storage import to_tensors
from triptych.compress.run import Attempt, Compressed, worst_rows
from triptych.data.decode import decode_image
from triptych.data.samples import Samples
from triptych.data.splits import Splits
from triptych.engines import Engine
from triptych.engines.openvino import OpenVINOEngine
from triptych.engines.torch import TorchEngine
from triptych.evaluate.explain.look import look
from triptych.evaluate.explain.subject import Subject, can_be_explained
from triptych.evaluate.memory import peak_memory
from triptych.evaluate.quality import Quality
from triptych.evaluate.size import size_bytes
from triptych.evaluate.speed import Latency, side_by_side
from triptych.models.components import components
from triptych.models.store import Loaded
from triptych.report import schema
from triptych.report.drawing import drawn
from triptych.report.environment import cpu_name, versions
from triptych.report.lit import looks
from triptych.report.media import picture_uri, shown, sound_uri
from triptych.report.words import weakest

MEASURED = (
    "Bytes are those of all files in each model's folder: weights with their scales and zeros, config, processor and manifest.",
    "Latency is one sample, preprocessing not included: median and 95th percentile of blocks of ten calls.",
    "The engines take turns, block by block, each with as many threads as suit it best.",
    "Quality is measured on test rows that neither training, calibration nor the choice of plan has seen.",
    "A modality's contribution is measured in the probability given to the truth, for without the modality answers are often a toss.",
    "Intervals are 95 % paired bootstrap intervals over the same rows for both models, whole groups (photos, clips, speakers) at a time.",
    "Peak memory is that of a fresh process that loads the folder and answers 32 rows one by one, above a bare interpreter.",
)


def build_report(
    original: Loaded,
    outcome: Compressed,
    splits: Splits,
    *,
    title: str,
    command: str,
    log: Sequence[dict[str, float]] = (),
    seconds: float | None = None,
    began: float | None = None,
    data_path: Path | None = None,
) -> schema.Report:
    """Measure both models side by side and gather everything the page shows.

    Args:
        original: the model before, read from its folder.
        outcome: of `compress.run.compress`.
        splits: the data.
        title: of the page.
        command: that reproduces the run.
        log: of the training, where the model was trained here.
        seconds: the run took, or
        began: `time.monotonic()` at its start.
        data_path: where the data stands; given, peak memory is measured too.
    """
    test = Samples(splits.table("test"), original.processor, splits.schema)
    latencies, threads = measure_latency(original, outcome.loaded, test)
    memory = _memory(original, outcome.loaded, data_path)
    before = _side(original, outcome.before, latencies["PyTorch fp32"], "PyTorch fp32", memory[0])
    after = _side(outcome.loaded, outcome.after, latencies["OpenVINO compressed"], "OpenVINO", memory[1])
    verdict = outcome.verdict
    elapsed = seconds if seconds is not None else time.monotonic() - (began or time.monotonic())
    return schema.Report(
        before=before,
        after=after,
        contract=_contract(verdict),
        components=_components(original, outcome.loaded),
        environment=_environment(torch.get_num_threads()),
        data=schema.Data(rows=sum(len(t) for t in splits.tables.values()), sha256=splits.sha256),
        seconds=elapsed,
        title=title,
        command=command,
        plan=_layers(original, outcome),
        curve=_curve(before, after, outcome.attempts),
        attempts=tuple(_attempt(i, a) for i, a in enumerate(outcome.attempts, 1)),
        engines=_engines(latencies, threads),
        worst=_worst(outcome, test, splits, original),
        training=_training(log),
        measured=MEASURED,
        notes=tuple(verdict.broken),
    )


def _contract(verdict: Verdict) -> schema.Contract:
    return schema.Contract(
        keep=verdict.contract.keep,
        kept=verdict.kept.point,
        interval=(verdict.kept.low, verdict.kept.high),
        per_modality={
            name: schema.Kept(
                keep=verdict.contract.keep_modality,
                kept=kept.interval.point,
                interval=(kept.interval.low, kept.interval.high),
                kept_answers=kept.answers.point,
                answers_interval=(kept.answers.low, kept.answers.high),
            )
            for name, kept in verdict.modalities.items()
        },
        verdict="broken" if verdict.broken else "kept",
        confidence=0.95,
    )


def measure_latency(original: Loaded, compressed: Loaded, test: Samples) -> tuple[dict[str, Latency], dict[str, int]]:
    """One sample through the original in PyTorch and OpenVINO fp32 and the compressed model in OpenVINO, side by side."""
    batch = test.batch([0])
    example = (batch.inputs, batch.presence)
    makers: dict[str, Callable[[int], Engine]] = {
        "PyTorch fp32": lambda threads: TorchEngine(original.model, threads=threads),
        "OpenVINO fp32": lambda threads: OpenVINOEngine(original.model, example, None, threads),
        "OpenVINO compressed": lambda threads: OpenVINOEngine(compressed.model, example, compressed.quantized, threads),
    }
    return side_by_side(makers, batch)


def _side(loaded: Loaded, quality: Quality, latency: Latency, engine: str, memory: int | None) -> schema.Side:
    assert loaded.folder is not None  # both were read from folders
    return schema.Side(
        bytes=size_bytes(loaded.folder),
        parameters=sum(p.numel() for p in loaded.model.parameters()),
        latency_ms=schema.Latency(p50=latency.p50_ms, p95=latency.p95_ms),
        peak_memory_bytes=memory,
        engine=engine,
        quality=schema.Quality.model_validate(quality.report()),
    )


def _memory(original: Loaded, compressed: Loaded, data: Path | None) -> tuple[int | None, int | None]:
    if data is None:
        return None, None

    def peak(loaded: Loaded, engine: str) -> int:
        return peak_memory([sys.executable, "-m", "triptych.evaluate.probe", str(loaded.folder), str(data), engine])

    with ThreadPoolExecutor() as pool:  # a peak does not depend on what else runs, and most of the time is imports
        before, after = pool.map(peak, (original, compressed), ("torch", "openvino"))
    return before, after


def _components(original: Loaded, compressed: Loaded) -> tuple[schema.Component, ...]:
    before = {name: tensor.numel() * tensor.element_size() for name, tensor in original.model.state_dict().items()}
    after = sizes(compressed)
    entries = [{n: v.parameter.numel() for n, v in weights(m).items()} for m in (original.model, compressed.model)]
    found = []
    for part in components(original.model, latency=True):
        whole, left = (sum(c for n, c in e.items() if part.owns(n)) for e in entries)
        rounded = [item for name, item in compressed.quantized.items() if part.owns(name)]
        width = (
            f"{left / whole:.0%} of its weights" if left < whole else "all its weights"
        )  # norms are folded, not lost
        found.append(
            schema.Component(
                name=part.name,
                role=part.role,
                modalities=part.modalities,
                parameters=part.parameters,
                bytes_before=sum(s for n, s in before.items() if part.owns(n)),
                bytes_after=sum(s for n, s in after.items() if part.owns(n)),
                latency_share=part.latency,
                decision=f"{width}; {_bits(rounded) or 'stays dense, for it is small'}",
            )
        )
    return tuple(found)


def sizes(loaded: Loaded) -> dict[str, int]:
    """Bytes of every tensor as it is stored: codes with their scales and zeros, or dense."""
    dense = {n: t.numel() * t.element_size() for n, t in loaded.model.state_dict().items() if n not in loaded.quantized}
    codes = {name: to_tensors({name: item})[0].values() for name, item in loaded.quantized.items()}
    return dense | {name: sum(t.numel() * t.element_size() for t in parts) for name, parts in codes.items()}


def _layers(original: Loaded, outcome: Compressed) -> tuple[schema.LayerPlan, ...]:
    stored = sizes(outcome.loaded)
    views, owners = weights(outcome.loaded.model), components(original.model)
    before = dict(original.model.named_parameters())
    method = next((s.method for s in outcome.plan.passes if isinstance(s, plans.Quantise)), "")
    rows = []
    for name, view in views.items():
        item = outcome.loaded.quantized.get(name)
        then = before.get(name)
        shape = tuple(view.parameter.shape)
        rows.append(
            schema.LayerPlan(
                name=name,
                component=next((c.name for c in owners if c.owns(name)), ""),
                shape_before=tuple(then.shape) if then is not None else shape,
                shape_after=shape,
                scheme=_words(item) if item else "fp32",
                bits=float(item.scheme.weight.bits) if item and item.scheme.weight else 32.0,
                method=method if item else "",
                sqnr_db=outcome.sqnr_db.get(name),
                bytes_before=(then if then is not None else view.parameter).numel() * 4,
                bytes_after=stored[name],
                why=_why(item),
            )
        )
    return tuple(rows)


def _why(item: QuantizedWeight | None) -> str:
    if item is None:
        return "small, or left whole by the plan"
    return "integer products" if item.input else "looked up or recurrent: no integer product, so only its bytes shrink"


def _bits(items: Sequence[QuantizedWeight]) -> str:
    """The bits of a component's weights and of their inputs: "int4 to int8 weights, int8 activations"."""
    bits = sorted({item.scheme.weight.bits for item in items if item.scheme.weight})
    if not bits:
        return ""
    stored = f"int{bits[0]} weights" if len(bits) == 1 else f"int{bits[0]} to int{bits[-1]} weights"
    return stored + (", int8 activations" if any(item.input for item in items) else "")


def _words(item: QuantizedWeight) -> str:
    grid = item.scheme.weight
    assert grid is not None  # a quantised weight has a grid
    group = f", groups of {grid.group}" if grid.group else ""
    return f"int{grid.bits} weights{group}" + (", int8 activations" if item.input else "")


def _curve(before: schema.Side, after: schema.Side, attempts: Sequence[Attempt]) -> tuple[schema.CurvePoint, ...]:
    ends = [
        schema.CurvePoint(label=label, bytes=s.bytes, latency_ms=s.latency_ms.p50, quality=s.quality.all)
        for label, s in (("before", before), ("after", after))
    ]
    tried = [
        schema.CurvePoint(label=f"attempt {i}, valid rows", bytes=a.size_bytes, quality=a.quality)
        for i, a in enumerate(attempts, 1)
    ]
    return tuple(ends + (tried if len(tried) > 1 else []))


def _attempt(number: int, attempt: Attempt) -> schema.Attempt:
    contract = _contract(attempt.verdict)
    worst = weakest(contract)
    return schema.Attempt(
        label=f"attempt {number}",
        bytes=attempt.size_bytes,
        kept=contract.kept,
        interval=contract.interval,
        worst=worst[0] if worst else "",
        verdict=contract.verdict,
        why="; ".join(attempt.verdict.broken) or attempt.plan.why,
    )


def _engines(latencies: dict[str, Latency], threads: dict[str, int]) -> tuple[schema.EngineRow, ...]:
    first = next(iter(latencies.values()))
    return tuple(
        schema.EngineRow(
            engine=name.split()[0],
            precision="fp32" if name.endswith("fp32") else "our codes",
            model="original" if name.endswith("fp32") else "compressed",
            threads=threads[name],
            latency_ms=schema.Latency(p50=item.p50_ms, p95=item.p95_ms),
            ratio=first.p50_ms / item.p50_ms,
        )
        for name, item in latencies.items()
    )


def _worst(outcome: Compressed, test: Samples, splits: Splits, original: Loaded) -> tuple[schema.Sample, ...]:
    table, task = splits.table("test"), original.model.task
    overlay = original.processor.overlay
    labels, rows = test.labels, worst_rows(outcome.before, outcome.after)
    assert labels is not None  # it was evaluated
    said = [task.answers(quality.outputs[rows]) for quality in (outcome.before, outcome.after)]
    found = []
    seen = _looks(original, outcome.loaded, test, rows)
    for place, (row, *answers) in enumerate(zip(rows, *said, strict=True)):
        cells = table.row(row)
        fields = tuple(
            schema.SampleField(
                name=f.name,
                kind=f.kind,
                value=shown(f.kind, cells[f.name], table.root, table.place(row)),
                looks=seen[f.name][place],
            )
            for f in splits.schema.inputs
        )
        if overlay is not None:
            pixels = decode_image(table.root / str(cells[overlay.picture]), table.place(row))
            over = {"truth": labels[row], "before": outcome.before.outputs[row], "after": outcome.after.outputs[row]}
            fields += tuple(
                schema.SampleField(
                    name=f"{overlay.picture}, {name}",
                    kind="image",
                    value=picture_uri(drawn(pixels, overlay, task, answer)),
                )
                for name, answer in over.items()
            )
        true = task.truth(labels[row])
        truth = _answer(true) if isinstance(true, dict) else schema.Answer(label=true)
        then, now = map(_answer, answers)
        found.append(
            schema.Sample(
                place=table.place(row), fields=fields, truth=truth.label, real=truth.made, before=then, after=now
            )
        )
    return tuple(found)


def _answer(said: dict[str, Any]) -> schema.Answer:
    made = sound_uri(said["sound"], said["rate"]) if "sound" in said else None
    made = picture_uri(said["picture"]) if "picture" in said else made
    return schema.Answer(label=str(said["answer"]), probability=said.get("probability"), made=made)


def _looks(
    original: Loaded, compressed: Loaded, test: Samples, rows: list[int]
) -> dict[str, list[tuple[schema.Look, ...]]]:
    """Where in each field of each row both models find what speaks for the truth."""
    found: dict[str, list[tuple[schema.Look, ...]]] = {name: [()] * len(rows) for name in original.model.fields}
    if not can_be_explained(original.model):
        return found
    table, batch = test.table, test.batch(rows)
    for label, loaded in (("before", original), ("after", compressed)):
        subject = Subject.of(loaded.model, batch)
        for name, features in loaded.processor.features.items():
            where = look(subject, name)
            for place, row in enumerate(rows):
                cell = table.row(row)[name]
                drawn = looks(features, cell, table.root, table.place(row), where, place, label, small=True)
                found[name][place] += tuple(drawn)
    return found


def _training(log: Sequence[dict[str, float]]) -> tuple[schema.TrainingPoint, ...]:
    """About a hundred points of the loss, and every validation."""
    losses = [p for p in log if "loss" in p]
    every = max(1, len(losses) // 100)
    points = [schema.TrainingPoint(step=p["step"], loss=p["loss"]) for p in losses[::every]]
    points += [schema.TrainingPoint(step=p["step"], quality=p["valid"]) for p in log if "valid" in p]
    return tuple(sorted(points, key=lambda p: p.step))


def _environment(threads: int) -> schema.Environment:
    return schema.Environment(cpu=cpu_name(), threads=threads, versions=versions())
