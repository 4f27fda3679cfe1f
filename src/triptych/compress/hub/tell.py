"""What the compression of a folder tells: the plan before the work, the table and the report after it, the model card."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from triptych import console
from triptych.compress import plan as plans
from triptych.compress.coverage import Coverage
from triptych.compress.hub.prepare import Prepared
from triptych.compress.hub.request import HubRequest
from triptych.compress.hub.sizes import stored_as
from triptych.compress.journal import Journal
from triptych.evaluate.agreement import Agreement
from triptych.export.card import card
from triptych.export.compressed_tensors import caution
from triptych.models.components import tensor_bytes
from triptych.report.environment import cpu_name, versions


def build(
    request: HubRequest,
    ready: Prepared,
    journal: Journal,
    covered: Sequence[Coverage],
    agreement: Agreement | None,
    command: str,
) -> dict[str, Any]:
    """What report.json holds: the words of the design where they apply, `agreement` where a labelled metric would stand."""
    notes = journal.notes
    after = ready.folder.bytes - ready.sizes.saved
    return {
        "schema": 1,
        "before": {"bytes": ready.folder.bytes},
        "after": {"bytes": after},
        "ratio": {"bytes": ready.folder.bytes / after},
        "contract": judge(request, agreement),
        "agreement": None if agreement is None else _agreement(agreement),
        "components": component_rows(ready, notes),
        "layers": {
            name: {"scheme": plans.word(ready.work.schemes[name]), "method": ready.work.schemes[name].method, **note}
            for name, note in notes.items()
        },
        "dense": ready.choice.dense,
        "recovered_from": recoveries(ready, notes),
        "plan": None if ready.plan is None else {"why": ready.plan.why, "predicted": ready.plan.predicted},
        "modality_weights": dict(ready.work.modality_weights),
        "coverage": [{"component": c.component, "samples": c.samples, "tokens": c.tokens} for c in covered],
        "environment": {"cpu": cpu_name(), "threads": torch.get_num_threads(), "versions": versions()},
        "data": {
            "rows": len(ready.calibration.rows),
            "skipped": [vars(row) for row in ready.calibration.skipped],
            "sha256": ready.calibration.sha256,
        },
        "command": command,
    }


def recoveries(ready: Prepared, notes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What could not be done as the plan says, and what was done in its place, with the number of weights."""
    found: Counter[str] = Counter()
    for name, note in notes.items():
        columns, part = ready.stream.model_shape(name)[1], ready.choice.component[name]
        asked, done = plans.scheme(ready.choice.layers[name], ""), ready.work.schemes[name]
        assert asked.weight is not None
        assert done.weight is not None
        wanted, group = asked.weight.group, done.weight.group
        if wanted is not None and wanted < columns and wanted != group:
            instead = f"groups of {group}" if group else "one scale a row"
            found[f"{part}: {wanted} does not divide {columns} columns; {instead} in place of groups of {wanted}"] += 1
        if asked.per_token and not done.per_token:
            found[f"{part}: inputs of two axes stay in float; readers would round all their tokens by one scale"] += 1
        found.update(f"{part}: {line}" for line in note["notes"])
    rows = [f"row {row.row} was left out: {row.reason}" for row in ready.calibration.skipped]
    return [*(f"{line} ({count} weight{'s' * (count > 1)})" for line, count in found.items()), *rows]


def judge(request: HubRequest, agreement: Agreement | None) -> dict[str, Any]:
    """The promise and what became of it; the lower ends of the intervals decide."""
    broken: list[str] = []
    if agreement is None or len(agreement.unchanged) < 2:
        return {"keep": request.keep, "verdict": "not judged", "broken": broken}
    whole = agreement.whole(request.seed)
    if request.keep is not None and whole.low < request.keep:
        broken.append(
            f"{whole.point:.1%} of the answers are unchanged ({whole.low:.1%} at least), not {request.keep:.1%}"
        )
    for modality, kept in agreement.kept.items():
        if request.keep_modality is not None and kept.low < request.keep_modality:
            broken.append(f"{modality} keeps {kept.point:.1%} of its effect ({kept.low:.1%} at least)")
    return {
        "keep": request.keep,
        "kept": whole.point,
        "interval": [whole.low, whole.high],
        "per_modality": {m: {"kept": k.point, "interval": [k.low, k.high]} for m, k in agreement.kept.items()},
        "verdict": "broken" if broken else "kept",
        "broken": broken,
    }


def way_out(request: HubRequest, report: Mapping[str, Any]) -> str:
    """What to do about a broken promise."""
    rounded = [row for row in report["components"] if row["sqnr_db"] is not None]
    worst = min(rounded, key=lambda row: row["sqnr_db"])["name"] if rounded else "*"
    more = f"Allow more bytes than --size {request.size}" if request.size else "Choose wider words"
    return (
        f"{more}, give {worst} more bits (--component '{worst}=w8': its SQNR is the lowest), recover what rounding cost "
        "(--recover), or promise less (--keep, --keep-modality)."
    )


def _agreement(agreement: Agreement) -> dict[str, Any]:
    return {
        "samples": len(agreement.divergence),
        "measure": "KL in nats" if agreement.distribution else "relative error",
        "divergence": float(agreement.divergence.mean()),
        "unchanged": float(agreement.unchanged.mean()),
    }


def component_rows(ready: Prepared, notes: Mapping[str, Mapping[str, Any]] | None = None) -> list[dict[str, Any]]:
    """A row a component: what it is, what is done to it, what stays dense and why."""
    rows = []
    for part in ready.parts:
        layers = [
            name for name, owner in ready.choice.component.items() if owner == part.name and name in ready.choice.layers
        ]
        row = {
            "name": part.name,
            "role": part.role,
            "modalities": list(part.modalities),
            "parameters": part.parameters,
            "blocks": len(part.blocks),
            "bytes_before": tensor_bytes(part, ready.sizes.before),
            "bytes_after": tensor_bytes(part, ready.sizes.after),
            "decision": dict(Counter(plans.word(ready.work.schemes[name]) for name in layers)),
            "dense": dict(ready.choice.reasons().get(part.name, {})),
        }
        if notes is not None:
            found = [notes[name]["sqnr_db"] for name in layers]
            row |= {"sqnr_db": round(min(found), 1) if found else None}
        rows.append(row)
    return rows


def show_choice(ready: Prepared) -> None:
    """Before any work: what will be compressed, what stays dense, and why; what readers will not take."""
    console.table(
        "plan",
        ["component", "role", "modalities", "parameters", "blocks", "rounded", "dense"],
        [
            [
                row["name"],
                row["role"],
                ", ".join(row["modalities"]),
                f"{row['parameters']:,}",
                row["blocks"],
                ", ".join(f"{count} x {word}" for word, count in row["decision"].items()) or "nothing",
                "; ".join(f"{count} {why}" for why, count in row["dense"].items()),
            ]
            for row in component_rows(ready)
        ],
    )
    if ready.plan is not None and ready.plan.why:
        console.say(f"the plan: {ready.plan.why}")
    entries = {stored_as(ready.stream, name, scheme, ready.plain) for name, scheme in ready.work.schemes.items()}
    for words in sorted({words for entry in entries if (words := caution(entry))}):
        console.warn(words)


def show_outcome(report: Mapping[str, Any]) -> None:
    """The table that matters."""
    before, after = report["before"]["bytes"], report["after"]["bytes"]
    rows = [
        ["bytes of tensors", console.human_bytes(before), console.human_bytes(after), f"{before / after:.1f}x smaller"]
    ]
    said, contract = report["agreement"], report["contract"]
    if said is not None:
        rows.append(["divergence of the answers", "0", f"{said['divergence']:.4g}", said["measure"]])
    if "interval" in contract:
        low, high = contract["interval"]
        rows.append(["answers unchanged", "100 %", f"{contract['kept']:.1%}", f"{low:.1%} to {high:.1%}"])
        for modality, kept in contract["per_modality"].items():
            low, high = kept["interval"]
            rows.append([f"  effect of {modality}", "100 %", f"{kept['kept']:.1%}", f"{low:.1%} to {high:.1%}"])
    console.table("before and after", ["", "original", "compressed", ""], rows)
    for line in report["recovered_from"]:
        console.say(line)


def write_card(request: HubRequest, ready: Prepared, report: Mapping[str, Any], command: str) -> str:
    """The model card of the new folder."""
    said, contract = report["agreement"], report["contract"]
    rows = [("bytes of tensors", f"{report['before']['bytes']:,}", f"{report['after']['bytes']:,}")]
    if said is not None:
        rows.append((f"divergence ({said['measure']})", "0", f"{said['divergence']:.4g}"))
    if "interval" in contract:
        rows.append(("answers unchanged", "100 %", f"{contract['kept']:.2%}"))
        rows += [(f"effect of {m}", "100 %", f"{k['kept']:.2%}") for m, k in contract["per_modality"].items()]
    return card(
        request.out.name,
        base=request.model.name,
        command=command,
        recipe={row["name"]: row["decision"] for row in report["components"] if row["decision"]},
        data=f"{len(ready.calibration.rows)} rows of {request.data.name}",
        data_sha256=ready.calibration.sha256,
        rows=rows,
        dense={name.removesuffix(".weight"): why for name, why in ready.choice.dense.items()},
    )
