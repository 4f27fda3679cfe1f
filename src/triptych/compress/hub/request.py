"""What is asked of the compression of a folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from triptych.compress.amounts import BYTES, parse_amount
from triptych.compress.hub.memory import total_memory
from triptych.compress.migration import Kind
from triptych.compress.quantize.cache import Format
from triptych.errors import InputError
from triptych.structure import Settings


class HubRequest(Settings):
    """What was asked for.

    Attributes:
        model, data, out: the folder to compress, calibration data, the folder to write.
        components: scheme words by component name or pattern.
        plan: a plan file instead, whose last pass is `quantise`.
        method: of weights narrower than eight bits, where no plan says otherwise.
        migrate: "awq", "smooth" or "both": scales that move from weights to the norms before them.
        modality_weights: "auto" to choose what a token of each modality counts.
        rows: calibration samples; `check` more are held out to compare the models on (0: not compared).
        length: tokens a sample's text is cut to.
        kv_cache: store scales for a cache of keys and values in eight bits.
        recover: train codes, scales, norms and biases on the calibration samples afterwards.
        size: bytes of the new folder's tensors at most, such as "25%" or "40MB"; components that are not named are then
            given the words that serve best within it.
        keep, keep_modality: least share of unchanged answers, and of each modality's effect on them; None: no promise.
        memory: bytes that may be resident, libraries included; None: what the system gives.
    """

    model: Path
    data: Path
    out: Path
    components: dict[str, str] = {}
    plan: Path | None = None
    method: str = "gptq"
    migrate: Kind | None = None
    modality_weights: Literal["auto"] | None = None
    rows: int = 128
    check: int = 32
    length: int | None = None
    kv_cache: Format | None = None
    recover: bool = False
    size: str | None = None
    keep: float | None = None
    keep_modality: float | None = None
    seed: int = 0
    memory: int | None = None


def work_folder(out: Path) -> Path:
    """Where the finished blocks of an unfinished folder lie."""
    return out.with_name(f".{out.name}.work")


def read_components(words: Sequence[str]) -> dict[str, str]:
    """`NAME=SCHEME` of the command line.

    Raises:
        InputError: a word without "=".
    """
    found = {}
    for word in words:
        name, equals, scheme = word.partition("=")
        if not (name and equals and scheme):
            raise InputError(f"--component {word!r} is not NAME=SCHEME.", "Write decoder=w4g64, for example.")
        found[name] = scheme
    return found


def read_share(text: str | None) -> float | None:
    """A share such as "99%"; None where none was given."""
    return None if text is None else parse_amount(text, 1.0, {}, "share to keep")


def read_bytes(text: str | None) -> int | None:
    """An amount of memory such as "3GB", or a share of the machine's; None where none was given."""
    return None if text is None else int(parse_amount(text, total_memory(), BYTES, "amount of memory"))
