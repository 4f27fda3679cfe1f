"""The model card, README.md of a published folder: how it was made, what that cost, and how to make it again."""

import re
from collections.abc import Iterable, Mapping, Sequence

import yaml

Row = tuple[str, str, str]  # what, before, after, as they are to be read


def card(
    name: str,
    *,
    base: str,
    command: str,
    recipe: Mapping[str, object],
    data: str,
    data_sha256: str,
    rows: Sequence[Row],
    dense: Mapping[str, str],
    usage: str = "",
    license: str | None = None,  # noqa: A002 - the word of the card's header
) -> str:
    """The card as Markdown, with the header that model hubs read.

    Args:
        name: the title.
        base: the model that this one was made from: its identifier on a hub, or a folder.
        command: the exact command line.
        recipe: what was done, as JSON values.
        data: the data that it was calibrated and judged on, in a few words.
        data_sha256: checksum of that data.
        rows: the table: what, before, after.
        dense: by module name, why it stayed as it was.
        usage: Python lines that load it; none to leave the section out.
        license: identifier of the base model's license, where known.
    """
    header: dict[str, object] = {"library_name": "transformers", "tags": ["triptych", "compressed-tensors"]}
    if license:
        header["license"] = license
    if re.fullmatch(r"[\w.-]+/[\w.-]+", base) and not base.startswith("."):
        header |= {"base_model": base, "base_model_relation": "quantized"}
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=True)}---",
        f"# {_line(name)}",
        f"{_code(base)}, compressed with Triptych. {len(dense)} of its modules stayed as they were.",
        "## Before and after",
        _table(rows),
        f"Calibrated and judged on {_line(data)}, SHA-256 {_code(data_sha256)}.",
        "## How it was made",
        _fence(command, "sh"),
        _fence(yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True), "yaml"),
    ]
    if usage:
        parts += ["## Use", _fence(usage, "python")]
    parts += ["## What stayed dense, and why", _reasons(dense) or "Nothing."]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _table(rows: Sequence[Row]) -> str:
    lines = [("", "before", "after"), ("---", "---:", "---:"), *rows]
    return "\n".join("| " + " | ".join(_line(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _reasons(dense: Mapping[str, str]) -> str:
    """One line a reason; modules that differ in their numbers alone are told together."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in dense.items():
        by_reason.setdefault(reason, []).append(name)
    return "\n".join(f"- {_line(reason)}: {', '.join(_together(names))}" for reason, names in by_reason.items())


def _together(names: Iterable[str]) -> list[str]:
    counts: dict[str, int] = {}
    for name in names:
        pattern = re.sub(r"(?<![^.])\d+(?![^.])", "*", name)
        counts[pattern] = counts.get(pattern, 0) + 1
    return [_code(pattern) + (f" ({count})" if "*" in pattern else "") for pattern, count in counts.items()]


def _line(text: str) -> str:
    """Text as one line: a line break would end a table row or a heading."""
    return " ".join(text.split())


def _code(text: str) -> str:
    """Inline code; longer quotes than any in the text close it."""
    line = _line(text)
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{ticks} {line} {ticks}" if "`" in line else f"{ticks}{line}{ticks}"


def _fence(text: str, language: str) -> str:
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    body = text.strip("\n")
    return f"{ticks}{language}\n{body}\n{ticks}"
