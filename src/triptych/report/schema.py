"""The report as data: what `report.json` holds, version 1, and how it is read back.

Units are in the names: bytes, `_ms`, seconds, dB. Shares are fractions (0.99, not 99). Ratios are before / after, so
above 1 is better. Sections with a default may be missing; the page leaves out what is not there.
"""

from math import isfinite
from pathlib import Path
from re import fullmatch
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from triptych.errors import InputError
from triptych.structure import Modality, Settings

Verdict = Literal["kept", "broken"]

# A base64 picture or sound. Pictures that can carry scripts (SVG) are not among them.
PICTURE = r"data:image/(?:webp|png|jpeg|gif);base64,[A-Za-z0-9+/]+={0,2}"
SOUND = r"data:audio/(?:mpeg|ogg|wav|flac|webm);base64,[A-Za-z0-9+/]+={0,2}"
Made = Annotated[str, StringConstraints(pattern=f"^(?:{PICTURE}|{SOUND})$")]


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not isfinite(value) else value


# What can lack a value: NaN and infinity (the SQNR of a lossless layer, a share of nothing) are None in JSON.
Perhaps = Annotated[float | None, BeforeValidator(_finite_or_none)]
Interval = tuple[float, float]


def _bounded_or_none(value: Any) -> Any:
    return None if isinstance(value, list | tuple) and any(_finite_or_none(bound) is None for bound in value) else value


PerhapsInterval = Annotated[Interval | None, BeforeValidator(_bounded_or_none)]


class Record(Settings):
    """Base of the report's parts: a NaN is refused where a number is due, rather than written as one."""

    model_config = ConfigDict(allow_inf_nan=False)


class Latency(Record):
    """Milliseconds of one call: the median and the 95th percentile."""

    p50: float
    p95: float


class Quality(Record):
    """A metric with every modality present, with each one removed, and with each one shuffled among the samples."""

    metric: str
    all: float
    without: dict[str, float] = Field(default_factory=dict)
    shuffled: dict[str, float] = Field(default_factory=dict)

    def contribution(self, modality: str) -> float:
        """What the modality adds: quality with all, less quality without it."""
        return self.all - self.without[modality]


class Side(Record):
    """The model before, or after."""

    bytes: int = Field(gt=0)
    parameters: int
    latency_ms: Latency
    peak_memory_bytes: int | None = None
    engine: str
    quality: Quality


class Ratio(Record):
    """Before / after: above 1 is better."""

    bytes: float
    latency: Perhaps = None
    memory: Perhaps = None

    @classmethod
    def between(cls, before: Side, after: Side) -> "Ratio":
        """The three ratios of two sides; a memory that was not measured has none."""
        memory = None
        if before.peak_memory_bytes and after.peak_memory_bytes:
            memory = before.peak_memory_bytes / after.peak_memory_bytes
        latency = before.latency_ms.p50 / after.latency_ms.p50 if after.latency_ms.p50 > 0 else None
        return cls(bytes=before.bytes / after.bytes, latency=latency, memory=memory)


class Kept(Record):
    """The share of a modality's contribution that is left; None where it contributed nothing to begin with.

    `kept` and its interval are of the probability given to the truth, `kept_answers` and `answers_interval` of the quality metric
    itself, and `keep` is the share that was promised.
    """

    keep: float
    kept: Perhaps = None
    interval: PerhapsInterval = None
    kept_answers: Perhaps = None
    answers_interval: PerhapsInterval = None


class Contract(Record):
    """The promise and what became of it."""

    keep: float
    kept: float
    interval: Interval
    per_modality: dict[str, Kept] = Field(default_factory=dict)
    verdict: Verdict
    confidence: float | None = None  # of the intervals, 0.95 for instance


class Component(Record):
    """A part of the model and what was decided about it."""

    name: str
    role: str
    modalities: tuple[str, ...] = ()
    parameters: int
    bytes_before: int
    bytes_after: int
    latency_share: Perhaps = None
    decision: str


class Environment(Record):
    """Where it was measured."""

    cpu: str
    threads: int
    versions: dict[str, str] = Field(default_factory=dict)


class Data(Record):
    """What it was measured on."""

    rows: int
    sha256: str


class LayerPlan(Record):
    """What was done to one tensor group and why."""

    name: str
    component: str
    shape_before: tuple[int, ...]
    shape_after: tuple[int, ...]
    scheme: str  # "int8 weights and activations"
    bits: float | None = None
    method: str = ""
    sqnr_db: Perhaps = None
    bytes_before: int
    bytes_after: int
    why: str = ""


class CurvePoint(Record):
    """One point of the size-speed-quality picture; the two ends are labelled "before" and "after"."""

    label: str
    bytes: int
    latency_ms: Perhaps = None
    quality: float
    interval: PerhapsInterval = None

    @property
    def kind(self) -> Literal["before", "after", "attempt"]:
        """What the point stands for: the two ends are labelled "before" and "after", the rest are attempts."""
        if self.label == "before":
            return "before"
        return "after" if self.label == "after" else "attempt"


class Attempt(Record):
    """One plan that the gate measured."""

    label: str
    bytes: int
    latency_ms: Perhaps = None
    kept: Perhaps = None
    interval: PerhapsInterval = None
    worst: str = ""  # the modality that decided
    verdict: Verdict
    why: str = ""  # what was changed for the next attempt, or why this one was taken


class EngineRow(Record):
    """Latency of one model in one engine. `ratio` is the first row's median over this one's."""

    engine: str
    precision: str
    model: Literal["original", "compressed"]
    threads: int | None = None
    latency_ms: Latency
    ratio: float


class Answer(Record):
    """What a model said, and how sure it was; `made` is a data URI of the sound or picture that it made."""

    label: str
    probability: Perhaps = None
    made: Made | None = None


class Piece(Record):
    """A stretch of text, and how much it speaks for (up to 1) or against (down to -1) the answer."""

    text: str
    weight: float = Field(ge=-1, le=1)


class Axes(Record):
    """What a spectrogram's sides mean: its length, and names at heights from 0 (the lower end) to 1."""

    seconds: float
    marks: tuple[tuple[str, float], ...] = ()


class Look(Record):
    """Where a model looked in a field: a picture that is lit there, or the pieces of a text."""

    name: str
    picture: str | None = None
    axes: Axes | None = None
    pieces: tuple[Piece, ...] = ()

    @model_validator(mode="after")
    def _picture_is_embedded(self) -> "Look":
        if self.picture is not None and fullmatch(PICTURE, self.picture) is None:
            raise ValueError(f"look {self.name!r}: the picture must be a base64 data URI of a known format")
        return self


class SampleField(Record):
    """One field of a sample: a data URI for a picture, a sound or a strip of frames, text for the rest, None where it is absent."""

    name: str
    kind: Modality
    value: str | None = None
    looks: tuple[Look, ...] = ()

    @model_validator(mode="after")
    def _media_is_embedded(self) -> "SampleField":
        pattern = {"image": PICTURE, "video": PICTURE, "audio": SOUND}.get(self.kind)
        if pattern and self.value is not None and fullmatch(pattern, self.value) is None:
            raise ValueError(f"field {self.name!r}: {self.kind} must be a base64 data URI of a known format")
        return self


class Sample(Record):
    """A held-out sample, with both models' answers."""

    place: str  # "test.csv, line 17"
    fields: tuple[SampleField, ...]
    truth: str
    real: Made | None = None  # where it was to be made
    before: Answer
    after: Answer


class TrainingPoint(Record):
    """One line of the training log."""

    step: float
    loss: Perhaps = None
    quality: Perhaps = None


class Check(Record):
    """A claim, the goal it was held to, and the value that was found."""

    name: str
    goal: str | int | float
    value: str | int | float
    passed: bool


class Report(Record):
    """Everything that was found out about a compression; `report.json` is this and nothing else."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    version: Literal[1] = Field(default=1, alias="schema")
    before: Side
    after: Side
    ratio: Ratio = Field(default_factory=lambda sides: Ratio.between(sides["before"], sides["after"]))
    contract: Contract
    components: tuple[Component, ...] = ()
    environment: Environment
    data: Data
    seconds: float

    title: str = ""
    command: str = ""
    plan: tuple[LayerPlan, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    engines: tuple[EngineRow, ...] = ()
    worst: tuple[Sample, ...] = ()
    training: tuple[TrainingPoint, ...] = ()
    checks: tuple[Check, ...] = ()
    measured: tuple[str, ...] = ()  # how it was measured, in sentences
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The text of report.json."""
        return self.model_dump_json(indent=1) + "\n"


def read_report(path: Path) -> Report:
    """The report in a file, or in a folder as report.json.

    Raises:
        InputError: the file is missing, is not JSON, or is not a report of version 1; the message names the file and
            the first field that is wrong.
    """
    path = path / "report.json" if path.is_dir() else path
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}.", "Name a report.json or a folder with one."
        ) from None
    try:
        return Report.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole file"
        again = "Write it again with `triptych compress`, or read it with the version of Triptych that wrote it."
        raise InputError(f"{path} is not a report of version 1: {place}: {first['msg']}.", again) from None
