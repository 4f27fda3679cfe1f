"""Tables of what was measured on Hugging Face folders: families, speed and memory of compression, kills, decoding, fidelity."""

from statistics import median
from typing import Any

from triptych.console import human_bytes, percent


def families(found: dict[str, Any]) -> list[list[str]]:
    """Each family: its components, what was done to them, whether released libraries read it alike."""
    rows = [
        ["family", "components", "rounded", "dense, and why", "smaller", "largest difference where it is read back"]
    ]
    for row in found["rows"]:
        if "error" in row:
            rows.append([row["family"], "", "", "", "", row["error"][:160]])
            continue
        parts = row["components"]
        done = [
            f"{p['name']}: {', '.join(f'{n} x {w}' for w, n in p['decision'].items())}" for p in parts if p["decision"]
        ]
        left = [f"{p['name']}: {'; '.join(f'{n} {why}' for why, n in p['dense'].items())}" for p in parts if p["dense"]]
        far = row["largest_difference"]
        rows.append(
            [
                row["family"],
                ", ".join(p["name"] for p in parts),
                "; ".join(done),
                "; ".join(left),
                f"{row['smaller']:.1f}x",
                f"{far:.1g} of the largest output" if far else "none: equal to the bit",
            ]
        )
    return rows


def compression_speed(found: dict[str, Any]) -> list[list[str]]:
    """Seconds of ours and of peers."""
    rows = [["", "whole process, s", "compression alone, s", "ours over theirs (our whole / their compression alone)"]]
    for name, row in found["rows"].items():
        if "error" in row:
            rows.append([name, "", "", row["error"][:160]])
            continue
        alone = row.get("compress_seconds")
        ratio = found["ratio"].get(name)
        rows.append(
            [
                name,
                f"{median(row['whole_seconds']):.0f}",
                f"{median(alone):.0f}" if alone else "",
                f"{ratio:.2f}" if ratio else "",
            ]
        )
    return rows


def compression_memory(found: dict[str, Any]) -> list[list[str]]:
    """Peak memory by model."""
    rows = [["model", "tensors on disk", "after", "peak memory above the interpreter with its libraries", "minutes"]]
    return rows + [
        [
            row["model"],
            human_bytes(row["bytes_before"]),
            human_bytes(row["bytes_after"]),
            human_bytes(row["peak_above_libraries"]),
            f"{row['seconds'] / 60:.1f}",
        ]
        for row in found["rows"]
    ]


def kills(found: dict[str, Any]) -> list[list[str]]:
    """Kills survived."""
    return [
        ["model", "kills", "identical results", "finished blocks kept", "nothing left beside the result"],
        [
            found["family"],
            str(found["trials"]),
            str(found["identical"]),
            str(found["blocks_kept"]),
            str(found["without_stray_files"]),
        ],
    ]


def fidelity_models(found: dict[str, Any]) -> list[list[str]]:
    """What the small trained models can do, and with their input shuffled."""
    rows = [["model", "parameters", "test", "with the medium of another sample", "minutes to train"]]
    for name, row in found["models"].items():
        score = {k: v for k, v in row["score"].items() if k not in {"kl", "flips", "answers"}}
        training = row["training"]
        seconds = training["seconds"] + training.get("tower", {}).get("seconds", 0.0)
        rows.append(
            [name, f"{row['parameters']:,}", _figures(score), _figures(row.get("shuffled", {})), f"{seconds / 60:.0f}"]
        )
    return rows


def _figures(values: dict[str, float]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {percent(value)}" for key, value in values.items())


def fidelity(found: dict[str, Any]) -> list[list[str]]:
    """Divergence and flips by model, width and method."""
    rows = [["model", "bits", "method", "bits a weight", "KL, nats", "flips", "task"]]
    for row in found["rows"]:
        if "error" in row:
            rows.append([row["model"], str(row["bits"]), row["method"], "", "", "", row["error"][:120]])
            continue
        score = row["score"]
        task = {k: v for k, v in score.items() if k not in {"kl", "flips", "answers"}}
        rows.append(
            [
                row["model"],
                str(row["bits"]),
                row["method"],
                f"{row['bits_per_weight']:.2f}",
                f"{score['kl']:.4g}",
                percent(score["flips"]),
                _figures(task),
            ]
        )
    return rows
