"""What people see while Triptych works: lines, stages, progress and tables; and the one JSON object that scripts read.

In JSON mode standard output carries that object alone and people's output moves to standard error. On a terminal
progress is a live bar; anywhere else (a log file, a pipe) it is a few plain lines, so that a log stays readable.
Importing this costs nothing: rich comes in with the first line that is printed.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

Real = int | float  # annotations are checked at run time, where an int is not a float

PLAIN_LINE_EVERY_S = 10.0

_json = False
_quiet = False
_consoles: dict[bool, "Console"] = {}  # by whether it writes to standard error
_now: Callable[[], float] = time.monotonic


class Advance(Protocol):
    """What `progress` yields: counts `n` finished units, with a short note (a loss, say) where there is one."""

    def __call__(self, n: int = 1, note: str = "") -> None: ...  # noqa: D102 - the class says it


def set_mode(json: bool = False, quiet: bool = False) -> None:
    """Chooses how the process speaks from here on; the mode belongs to the process, as its standard streams do.

    Args:
        json: standard output carries only what `emit` prints; people's output goes to standard error.
        quiet: people's output is left out, warnings excepted.
    """
    global _json, _quiet
    _json, _quiet = json, quiet


@contextmanager
def muted() -> Iterator[None]:
    """Leaves people's output out for a while, warnings excepted: for small steps of work that is being told anyway."""
    before = _quiet
    set_mode(_json, quiet=True)
    try:
        yield
    finally:
        set_mode(_json, before)


def emit(obj: Any) -> None:
    """Prints one JSON object on standard output in JSON mode; otherwise does nothing, so that a verb needs no `if`.

    Takes dictionaries, pydantic models, dataclasses, paths, NumPy scalars and what they contain. NaN and infinity
    become null, for JSON has no word for them.
    """
    if not _json:
        return
    from json import dumps

    from pydantic_core import to_jsonable_python

    plain = to_jsonable_python(obj, inf_nan_mode="null", fallback=_plain)
    sys.stdout.write(dumps(plain, indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Prints one line for people. Brackets in it are text, never markup."""
    if not _quiet:
        _print(text)


def warn(text: str) -> None:
    """Prints a warning on standard error, in quiet mode too."""
    _console(error=True).print(f"warning: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def stage(title: str) -> Iterator[None]:
    """A stage of the work: one line with the time it took when it ends; on a terminal a spinner while it runs."""
    start = _now()
    try:
        if _quiet or not _console().is_terminal:
            yield
        else:
            from rich.text import Text

            with _console().status(Text(title)):
                yield
    except BaseException:
        say(f"{title}: stopped after {human_seconds(_now() - start)}")
        raise
    say(f"{title}: {human_seconds(_now() - start)}")


@contextmanager
def progress(label: str, total: int, unit: str = "step") -> Iterator[Advance]:
    """Shows how far `total` units of work are, how fast they go and how long the rest takes.

    Args:
        label: what is being done.
        total: number of units.
        unit: singular name of one unit.

    Yields:
        `advance(n=1, note="")`, to be called after every n units.
    """
    meter = _Meter(label, total, unit)
    try:
        if _quiet:
            yield meter.advance
        elif _console().is_terminal:
            with _bar() as bar:
                task = bar.add_task("", total=total, label=label, state="")
                meter.listener = lambda: bar.update(task, completed=meter.done, state=meter.pace())
                yield meter.advance
        else:
            say(f"{label}: {meter.count()}")
            meter.listener = meter.line_when_due
            yield meter.advance
    finally:
        say(meter.summary())


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table. Columns that hold only quantities (numbers with or without a unit) are set flush right.

    Raises:
        ValueError: a row has more or fewer cells than there are columns.
    """
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    for i, row in enumerate(cells):
        if len(row) != len(columns):
            raise ValueError(f"table {title!r}: row {i} has {len(row)} cells for {len(columns)} columns")
    right = [bool(cells) and all(_is_quantity(row[i]) for row in cells) for i in range(len(columns))]
    if _quiet:
        return
    if not _console().is_terminal:  # nothing may be folded or cut at the 80 columns that rich assumes there
        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        say(title)
        for row in [list(columns), ["-" * width for width in widths], *cells]:
            fields = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
            say("  ".join(fields).rstrip())
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column, flush_right in zip(columns, right, strict=True):
        grid.add_column(Text(column), justify="right" if flush_right else "left")
    for row in cells:
        grid.add_row(*map(Text, row))
    _console().print(grid)


def human_bytes(count: Real) -> str:
    """Bytes in decimal units (1 MB = 1,000,000 bytes, as on a disk's label) to three figures: "12.3 MB"."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" else f"{_three_figures(value)} {unit}"
        value /= 1000
    return f"{_three_figures(value)} TB"


def human_count(count: Real) -> str:
    """A number of operations to three figures: "12.3 G"."""
    value = float(count)
    for prefix in ("", "k", "M", "G"):
        if abs(value) < 999.5:
            return f"{_three_figures(value)} {prefix}" if prefix else f"{value:.0f}"
        value /= 1000
    return f"{_three_figures(value)} T"


def human_seconds(seconds: Real) -> str:
    """A duration as people say it: "12 ms", "3.4 s", "2 min 05 s", "1 h 20 min", "3 d 4 h"."""
    if not isfinite(seconds):
        return "unknown"
    if seconds < 59.95:
        return f"{_three_figures(1000 * seconds)} ms" if 0 < seconds < 0.9995 else f"{seconds:.1f} s"
    whole, minutes, hours = round(seconds), round(seconds / 60), round(seconds / 3600)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{hours // 24} d {hours % 24} h"


def percent(share: Real, digits: int = 1) -> str:
    """A share as a percentage: 0.991 is "99.1%"."""
    return f"{100 * share:.{digits}f}%"


class _Meter:
    """Counts finished units against a clock and words the count for both kinds of progress."""

    def __init__(self, label: str, total: int, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self.note = ""
        self.start = self.last_line = _now()
        self.listener: Callable[[], Any] = lambda: None

    def advance(self, n: int = 1, note: str = "") -> None:
        self.done += n
        self.note = note or self.note
        self.listener()

    def count(self) -> str:
        name = self.unit + ("es" if self.unit.endswith(("s", "x", "ch", "sh")) else "s")
        return f"{self.done} of {self.total} {name}"

    def pace(self) -> str:
        """Rate, time left and note."""
        seconds = _now() - self.start
        if not self.done or seconds <= 0:
            return self.note
        rate = self.done / seconds
        speed = f"{_three_figures(rate)} {self.unit}/s" if rate >= 1 else f"{human_seconds(1 / rate)} per {self.unit}"
        left = max(self.total - self.done, 0) / rate
        return ", ".join(filter(None, [speed, f"{human_seconds(left)} left" if left else "", self.note]))

    def line_when_due(self) -> None:
        if self.done < self.total and _now() - self.last_line >= PLAIN_LINE_EVERY_S:
            self.last_line = _now()
            say(f"{self.label}: {percent(self.done / self.total, 0)}, {self.count()}, {self.pace()}")

    def summary(self) -> str:
        end = f"{self.label}: {self.count()} in {human_seconds(_now() - self.start)}"
        return f"{end}, {self.note}" if self.note else end


def _bar() -> "Progress":
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (
        TextColumn("{task.fields[label]}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[state]}", style="dim", markup=False),
    )
    return Progress(*columns, console=_console(), transient=True)


def _console(error: bool = False) -> "Console":
    """The console for people; rich looks its stream up at every print, so a redirected stream is honoured."""
    error = error or _json
    if error not in _consoles:
        from rich.console import Console

        _consoles[error] = Console(stderr=error, emoji=False)
    return _consoles[error]


def _print(text: str) -> None:
    _console().print(text, markup=False, highlight=False, soft_wrap=True)


def _plain(value: Any) -> Any:
    """NumPy and torch scalars, as the Python number they hold."""
    if hasattr(value, "item") and getattr(value, "size", 1) in (1, ()):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no place in JSON: {value!r}")


def _is_quantity(cell: str) -> bool:
    return not cell or cell.lstrip("+-\N{MINUS SIGN}")[:1].isdigit()


def _three_figures(value: float) -> str:
    """12.3 for 12.34: as many decimals as make three figures, never more."""
    size = abs(value)
    return f"{value:.{0 if size >= 99.95 else 1 if size >= 9.995 else 2}f}"
