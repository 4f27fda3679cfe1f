"""Tables in docs/ and the figures in README.md, made from results/*.json and from nothing else."""

import re
from pathlib import Path
from typing import Any

from benchmarks import folder_tables, sound_tables
from benchmarks.record import RESULTS, read
from triptych.artifact import write_file
from triptych.console import human_bytes, percent
from triptych.report import words

ROOT = Path(__file__).parents[1]
SHARED_MACHINE = "Test rows. Minutes are those of one thread while other trainings shared the machine; each row's JSON says when and where."
PUBLISHED = {  # figures that others reached with other data, backbones and hardware
    "captions": "BLEU-1 to 4 67 / 44.8 / 29.9 / 19.5 (Xu et al. 2015, soft attention, VGG)",
    "captions_transformer": "BLEU-1 to 4 65.7 / 41.4 / 27.1 / 16.5 (a reproduction with a frozen ResNet)",
    "retrieval": "image search R@1/5/10 19.1 / 45.3 / 60.4, annotation 22.6 / 48.8 / 61.2 (Klein et al., fixed features)",
    "an4": "WER 7.4 %, CER 3.6 % (ESPnet)",
    "sounds": "ESC-10: random forest 72.7 %, people 95.7 % (Piczak 2015)",
}
SOUNDS = {  # tables of `sound_tables`, by the name of their JSON
    "folds": "ESC-10, fold by fold",
    "beams": "Speech, read off and searched for",
    "emotion": "Emotions of speakers that training never heard: the mean with its 95 % interval",
}
FOLDERS = {  # tables of `folder_tables`, by the name of their JSON
    "families": "One tiny model of every family, compressed and read back by released libraries",
    "compression_speed": "How long compression takes: the decoder of SmolVLM-256M, GPTQ at 4 bits",
    "compression_memory": "How much memory compression takes",
    "decoding": "Token by token: a decoder of SmolVLM-256M's geometry in four bits",
    "vision_tower": "Vision transformers in eight bits: ViT-B/32 at 224 px, and SmolVLM's tower at 512 px",
    "kills": "`kill -9` at random moments",
    "damage": "Damaged inputs",
    "fidelity_models": "The trained models that fidelity is measured on",
    "fidelity": "Fidelity: KL from the original in nats, and flipped answers",
    "fidelity_tasks": "Fidelity: what the rounded models reach at their task",
    "fidelity_gaps": "Fidelity: mean distance of a layer's error from the rate-distortion bound, dB",
}
SHARED = {"fidelity_tasks": "fidelity", "fidelity_gaps": "fidelity"}  # tables made from another's JSON


def main() -> None:
    """Write docs/results.md and the figures of README.md."""
    write_file(ROOT / "docs" / "results.md", results())
    readme = ROOT / "README.md"
    write_file(readme, with_figures(readme.read_text()))


def results() -> str:
    """The page of all tables that have been measured."""
    parts = [
        "# Results\n\nEvery figure here was measured by a script in `benchmarks/` and is read from `benchmarks/results/`.\n"
    ]
    for name, title, make in (
        ("demo", "The demo: before and after", demo),
        ("left_out", "A speaker that training never heard", left_out),
        ("overhead", "What the training loop costs", overhead),
        ("grid", "Every encoder with every fusion", grid),
        ("methods", "Every compression method", methods),
    ):
        found = read(name)
        if found:
            parts.append(f"## {title}\n\n{make(found)}\n{measured(found)}\n")
    if any((RESULTS / "tasks").glob("*.json")):
        parts.append(f"## Every task, from its recipe to a quarter of its bytes\n\n{SHARED_MACHINE}\n\n{tasks()}\n")
    found = read("automatic")
    if found:
        parts.append(
            f"## A recipe that was chosen, beside the one that was written\n\n{automatic(found)}\n{measured(found)}\n"
        )
    for name, title in (SOUNDS | FOLDERS).items():
        found = read(SHARED.get(name, name))
        if found:
            head, *rows = getattr(sound_tables if name in SOUNDS else folder_tables, name)(found)
            parts.append(f"## {title}\n\n{table(head, rows)}\n{measured(found)}\n")
    return "\n".join(parts)


def demo(found: dict[str, Any]) -> str:
    """The table that matters, and how long it took."""
    before, after, contract = found["before"], found["after"], found["contract"]
    fp32 = next(e for e in found["engines"] if e["engine"] == "OpenVINO" and e["model"] == "original")["latency_ms"][
        "p50"
    ]
    ms = (before["latency_ms"]["p50"], after["latency_ms"]["p50"])
    low, high = contract["interval"]
    rows = [
        [
            "bytes on disk",
            human_bytes(before["bytes"]),
            human_bytes(after["bytes"]),
            f"{before['bytes'] / after['bytes']:.1f}x smaller",
        ],
        ["one sample, against PyTorch fp32", f"{ms[0]:.2f} ms", f"{ms[1]:.2f} ms", f"{ms[0] / ms[1]:.1f}x faster"],
        ["one sample, against OpenVINO fp32", f"{fp32:.2f} ms", f"{ms[1]:.2f} ms", f"{fp32 / ms[1]:.1f}x faster"],
        [
            "accuracy on unseen signers and takes",
            percent(before["quality"]["all"], 2),
            percent(after["quality"]["all"], 2),
            f"{percent(contract['kept'])} kept ({percent(low)} to {percent(high)})",
        ],
    ]
    for name, kept in contract["per_modality"].items():
        low, high = kept["interval"]
        probable = f"contribution {percent(kept['kept'])} kept ({percent(low)} to {percent(high)})"
        rows.append(
            [
                f"accuracy without {name}",
                percent(before["quality"]["without"][name], 2),
                percent(after["quality"]["without"][name], 2),
                f"{probable}; {percent(kept['kept_answers'])} in answers",
            ]
        )
    took = f"{found['seconds'] / 60:.1f} minutes from data to report, {human_bytes(found['peak_bytes'])} of memory at most."
    return table(["", "original", "compressed", "95 % interval"], rows) + f"\n{took}\n"


def left_out(found: dict[str, Any]) -> str:
    """Accuracy on the speaker that was left out."""
    rows = [[row["speaker"], percent(row["accuracy"], 2), f"{row['minutes']:.1f}"] for row in found["rows"]]
    return table(["speaker left out", "accuracy", "minutes to train"], rows)


def overhead(found: dict[str, Any]) -> str:
    """One sentence."""
    r = found["ratio"]
    return (
        f"Time of the loop over that of a plain hand-written one, same model, data and batches of {found['batch']}: "
        f"median {r['median']:.3f} (middle half {r['low']:.3f} to {r['high']:.3f}) over {len(found['pairs'])} alternating pairs.\n"
    )


def tasks() -> str:
    """Every task before and after compression; a published figure of another set-up stands beside ours, labelled as such."""
    rows = []
    for path in sorted((RESULTS / "tasks").glob("*.json")):
        row = read(f"tasks/{path.stem}")
        before, after, contract = row["before"]["quality"], row["after"]["quality"], row["contract"]
        others = {name: value for name, value in row["models"]["all of it"].items() if name != before["metric"]}
        alone = {
            label: next(iter(metrics.values())) for label, metrics in row["models"].items() if label != "all of it"
        }
        rows.append(
            [
                path.stem,
                before["metric"],
                words.quality(before["all"], before["metric"]),
                words.quality(after["all"], before["metric"]),
                f"{row['ratio']['bytes']:.1f}x",
                f"{row['ratio']['latency']:.1f}x",
                contract["verdict"],
                f"{row['minutes_to_train']:.1f}",
                ", ".join(f"{name} {value:.3g}" for name, value in others.items()),
                ", ".join(f"{label} {value:.3g}" for label, value in alone.items()),
                PUBLISHED.get(path.stem, ""),
            ]
        )
    head = ["task", "metric", "before", "after", "smaller", "faster", "contract", "minutes to train"]
    return table([*head, "more figures, before", "parts of the input", "published, of another set-up"], rows)


def automatic(found: dict[str, Any]) -> str:
    """What `triptych train DATA --minutes` reaches in the minutes of the recipe that was written by hand."""
    rows = []
    for name, row in found["rows"].items():
        chosen, by_hand = (words.quality(row[label], row["metric"]) for label in ("chosen", "by_hand"))
        rows.append([name, row["metric"], chosen, by_hand, f"{row['allowed']:.1f}", f"{row['took']:.1f}"])
    ratios = sorted(row["chosen"] / row["by_hand"] for row in found["rows"].values() if row["by_hand"] > 0)
    middle = f"Median of chosen over written: {percent(ratios[len(ratios) // 2])}.\n"
    return table(["task", "metric", "chosen", "written", "minutes allowed", "minutes taken"], rows) + "\n" + middle


def grid(found: dict[str, Any]) -> str:
    """Encoders by fusions."""
    rows = [
        [
            row["encoder"],
            row["fusion"],
            percent(row["accuracy"]),
            f"{row['parameters']:,}",
            f"{row['latency_ms']['torch']:.2f}",
            f"{row['latency_ms']['openvino']:.2f}",
            f"{row['minutes']:.1f}",
        ]
        for row in found["rows"]
    ]
    head = ["encoder", "fusion", "accuracy", "parameters", "ms in PyTorch", "ms in OpenVINO", "minutes to train"]
    return f"{found['steps']} steps of 128 each; nothing is tuned by row.\n\n" + table(head, rows)


def methods(found: dict[str, Any]) -> str:
    """Methods alone and combined."""
    rows = [
        [
            row["method"],
            f"{row['smaller']:.1f}x",
            f"{row['latency_ms']['PyTorch fp32'] / row['latency_ms']['OpenVINO compressed']:.1f}x",
            f"{row['latency_ms']['OpenVINO fp32'] / row['latency_ms']['OpenVINO compressed']:.1f}x",
            percent(row["accuracy"], 2),
            f"{percent(row['kept']['point'])} ({percent(row['kept']['interval'][0])} to {percent(row['kept']['interval'][1])})",
            percent(min(kept["probability"] for kept in row["modalities"].values())),
            percent(min(kept["answers"] for kept in row["modalities"].values())),
            f"{row['minutes']:.1f}",
        ]
        for row in found["rows"]
    ]
    head = [
        "method",
        "smaller",
        "faster than PyTorch",
        "than OpenVINO fp32",
        "accuracy",
        "kept",
        "weakest modality kept, in probability",
        "in answers",
        "minutes",
    ]
    return f"Recovering methods train for {found['steps']} steps.\n\n" + table(head, rows)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def measured(found: dict[str, Any]) -> str:
    """Where and when."""
    where = found["environment"]
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    readers = ", ".join(f"{name} {number}" for name, number in found.get("reader", {}).items())
    read = f" Read back by {readers}." if readers else ""
    return f"{where['date']}, {where['cpu']}, {where['threads']} threads; {versions}.{read}\n"


def with_figures(readme: str) -> str:
    """The README with the block between its markers made anew."""
    found = read("demo")
    unheard = read("left_out")
    block = f"{demo(found)}\n" if found else ""
    if unheard:
        worst = min(unheard["rows"], key=lambda row: row["accuracy"])
        block += f"On a speaker that training never heard ({worst['speaker']}): {percent(worst['accuracy'], 2)} for the original.\n"
    block += f"\n{measured(found)}" if found else ""
    return re.sub(
        r"(<!-- figures -->\n).*?(<!-- /figures -->)", lambda m: f"{m[1]}{block}{m[2]}", readme, flags=re.DOTALL
    )


if __name__ == "__main__":
    main()
