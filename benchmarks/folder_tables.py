"""Tables of what was measured on Hugging Face folders: families, speed and memory of compression, kills, decoding, fidelity."""

from collections.abc import Iterator
from statistics import mean, median, stdev
from typing import Any

from triptych.console import human_bytes, percent

OURS = "Triptych"
SCALE = 0.25  # bits a weight of a scale for 64
METRICS = {
    "vlm": ("accuracy",),
    "whisper": ("token_accuracy", "cer"),
    "clip": ("image_to_text_r10", "text_to_image_r10"),
}


def families(found: dict[str, Any]) -> list[list[str]]:
    """Each family: its components, what was done to them, and whether whoever reads the folder answers alike."""
    rows = [["family", "components", "rounded", "dense, and why", "smaller", "read back by", "largest difference"]]
    for row in found["rows"]:
        name = f"{row['family']} (named after all else was done)" if row.get("named_later") else row["family"]
        if "error" in row:
            rows.append([name, "", "", "", "", "", row["error"][:160]])
            continue
        parts = row["components"]
        done = [
            f"{p['name']}: {', '.join(f'{n} x {w}' for w, n in p['decision'].items())}" for p in parts if p["decision"]
        ]
        left = [f"{p['name']}: {'; '.join(f'{n} {why}' for why, n in p['dense'].items())}" for p in parts if p["dense"]]
        far = row["largest_difference"]
        rows.append(
            [
                name,
                ", ".join(p["name"] for p in parts),
                "; ".join(done),
                "; ".join(left),
                f"{row['smaller']:.1f}x",
                row["read_by"],
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
    """Peak memory by model, with what the dry run had said."""
    head = ["", "tensors on disk", "after", "peak memory above the interpreter with its libraries"]
    rows = [
        [
            *head,
            "peak with libraries: foretold / came",
            "disk: foretold / came",
            "minutes, shared machine: foretold / came",
        ]
    ]
    for name, row in found["rows"].items():
        if "error" in row:
            rows.append([name, "", "", row["error"][:160], "", "", ""])
            continue
        line = [row["what"], human_bytes(row["bytes_before"]), "", human_bytes(row["peak_above_libraries"]), "", "", ""]
        if "came" in row:
            said, came = row["foretold"] or {}, row["came"]
            line[2] = human_bytes(came["bytes_after"])
            for place, key in ((4, "peak_bytes"), (5, "disk_bytes")):
                line[place] = f"{human_bytes(said[key]) if said else 'not asked'} / {human_bytes(came[key])}"
            line[6] = f"{said['minutes']:.1f} / {came['minutes']:.1f}" if said else f"not asked / {came['minutes']:.1f}"
        rows.append(line)
    return rows


def kills(found: dict[str, Any]) -> list[list[str]]:
    """Kills survived."""
    return [
        ["model", "kills", "identical results", "blocks rounded twice, at most", "nothing left beside the result"],
        [
            found["family"],
            str(found["trials"]),
            str(found["identical"]),
            str(found["most_blocks_redone"]),
            str(found["without_stray_files"]),
        ],
    ]


def damage(found: dict[str, Any]) -> list[list[str]]:
    """Each kind of damage, and how it was met."""
    titles = {
        "ours": "a folder that Triptych wrote: `verify`, and opening it",
        "elsewhere": "a folder from elsewhere: `compress`",
        "unknowable": "the same, where no checksum tells: a number became another number",
    }
    rows = [["input", "damage", "trials", "refused by name", "refused otherwise", "accepted", "crashed"]]
    for part, title in titles.items():
        for kind, met in found[part]["kinds"].items():
            counts = [str(met.get(word, 0)) for word in ("refused by name", "refused", "accepted", "crashed")]
            rows.append([title, kind, str(sum(met.values())), *counts])
    return rows


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
    """KL from the original, and flipped answers, by model and width; ours over the best peer's."""
    names = _contenders(found)
    rows = [["model", "bits", *(f"{name}{_extra(found, name)}" for name in names), "best of ours / best peer"]]
    for copy, bits, cell in _cells(found):
        means = {name: mean(row["kl"] for row in done) for name, done in cell.items()}
        ours = [kl for name, kl in means.items() if name.startswith(OURS)]
        peers = [kl for name, kl in means.items() if not name.startswith(OURS)]
        ratio = f"{min(ours) / min(peers):.2f}" if ours and peers else ""
        rows.append([copy, bits, *(_divergence(found["rows"][copy][bits].get(name, {})) for name in names), ratio])
    return rows


def fidelity_tasks(found: dict[str, Any]) -> list[list[str]]:
    """What the rounded models reach at their task."""
    names = _contenders(found)
    rows = [["model", "metric", "bits", *names]]
    for copy, bits, cell in _cells(found):
        for metric in METRICS[copy.partition(" ")[0]]:
            figures = {name: mean(row["task"][metric] for row in done) for name, done in cell.items()}
            shown = [percent(figures[name]) if name in figures else "" for name in names]
            rows.append([copy, metric.replace("_", " "), bits, *shown])
    return rows


def fidelity_gaps(found: dict[str, Any]) -> list[list[str]]:
    """Mean distance of the layers' errors from the bound, dB."""
    names = [name for name in _contenders(found) if not name.endswith("AWQ")]
    rows = [["model", "bits", *names]]
    for copy, bits, cell in _cells(found):
        gaps = {name: [row["gap_db"] for row in done if "gap_db" in row] for name, done in cell.items()}
        rows.append([copy, bits, *(f"{mean(gaps[name]):.1f}" if gaps.get(name) else "" for name in names)])
    return rows


def _contenders(found: dict[str, Any]) -> list[str]:
    """Ours first, then the peers by name."""
    names = {name for widths in found["rows"].values() for cell in widths.values() for name in cell}
    return sorted(names, key=lambda name: (not name.startswith(OURS), len(name) if name.startswith(OURS) else 0, name))


def _cells(found: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, list[dict[str, Any]]]]]:
    """Each model and width with the rows that were measured, by contender."""
    for copy in sorted(found["rows"]):
        for bits in sorted(found["rows"][copy], key=int, reverse=True):
            cell = {
                name: [row for row in seeds.values() if "kl" in row]
                for name, seeds in found["rows"][copy][bits].items()
            }
            yield copy, bits, {name: done for name, done in cell.items() if done}


def _extra(found: dict[str, Any], name: str) -> str:
    """What a contender stores beyond ours, in bits a weight, where that is something."""
    differences = {
        round(mean(row["bits"] for row in done) - int(bits) - SCALE, 2)
        for _, bits, cell in _cells(found)
        for who, done in cell.items()
        if who == name and bits != "8"
    }
    return "".join(f" ({more:+.2f} bits)" for more in sorted(differences) if more)


def _divergence(seeds: dict[str, dict[str, Any]]) -> str:
    done = [row for row in seeds.values() if "kl" in row]
    if not done:
        return "; ".join({row["error"].partition(": ")[2][:40] for row in seeds.values()})
    values = [row["kl"] for row in done]
    spread = f" ± {stdev(values):.1g}" if len(values) > 1 else ""
    return f"{mean(values):.2g}{spread}, {percent(mean(row['flips'] for row in done))}"


def decoding(found: dict[str, Any]) -> list[list[str]]:
    """Tokens a second of engines with the same model, and their share of what reading its weights allows."""
    rows = [["engine", "tokens/s (middle half)", "of the bound", "bits a weight", "prompt of 256 tokens, ms"]]
    for name, row in found["engines"].items():
        rate = row["tokens_per_second"]
        rows.append(
            [
                name.replace("_", " "),
                f"{rate['median']:.0f} ({rate['low']:.0f} to {rate['high']:.0f})",
                f"{percent(row['share_of_bound'], 0)} of {row['bound']:.0f}",
                f"{row['bits_per_weight']:.2f}",
                f"{row['prefill_ms']['median']:.0f}",
            ]
        )
    return rows


def vision_tower(found: dict[str, Any]) -> list[list[str]]:
    """Milliseconds an image of engines that take turns."""
    rows = [["model", "engine", "ms an image, median", "95 % below", "faster than the first", "outputs apart"]]
    for model, row in found["models"].items():
        for name, latency in row["latency_ms"].items():
            ratio = row["speedup_over_first"][name]
            rows.append(
                [
                    model.replace("_", " "),
                    name.replace("_", " "),
                    f"{latency['p50_ms']:.1f}",
                    f"{latency['p95_ms']:.1f}",
                    f"{ratio['median']:.2f}x ({ratio['low']:.2f} to {ratio['high']:.2f})",
                    percent(row["error"][name]),
                ]
            )
    return rows
