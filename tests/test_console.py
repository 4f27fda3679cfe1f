"""The console: JSON and people's output never mix, logs stay short, text is never taken for markup."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from triptych import console


@pytest.fixture(autouse=True)
def people_mode() -> Iterator[None]:
    console.set_mode()
    yield
    console.set_mode()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    hand = SimpleNamespace(now=0.0)
    monkeypatch.setattr(console, "_now", lambda: hand.now)
    return hand


def test_import_is_cheap() -> None:
    code = "import sys, triptych.console; print([m for m in ('torch', 'rich', 'pydantic_core') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_say_keeps_brackets_and_long_lines_whole(capsys: pytest.CaptureFixture[str]) -> None:
    text = "field [bold]image[/bold] :smile: " + "word " * 100 + "end"
    console.say(text)
    assert capsys.readouterr().out == text + "\n"


def test_json_mode_prints_one_object_on_stdout_and_the_rest_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    console.set_mode(json=True)
    console.say("hello")
    console.table("T", ["a"], [["b"]])
    with console.stage("train"), console.progress("epochs", 1) as advance:
        advance()
    console.emit({"path": Path("m"), "size": np.int64(3), "loss": np.float32(0.5), "gap": float("nan"), "u": "\u00fc"})
    out, err = capsys.readouterr()
    assert json.loads(out) == {"path": "m", "size": 3, "loss": 0.5, "gap": None, "u": "\u00fc"}
    assert "hello" in err
    assert "train" in err


def test_emit_is_silent_for_people_and_names_what_json_cannot_hold(capsys: pytest.CaptureFixture[str]) -> None:
    console.emit({"a": 1})
    assert capsys.readouterr().out == ""
    console.set_mode(json=True)
    with pytest.raises(Exception, match=r"ndarray has no place in JSON"):
        console.emit({"weights": np.zeros(4)})


def test_quiet_leaves_only_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    console.set_mode(quiet=True)
    console.say("hello")
    console.table("T", ["a"], [["b"]])
    with console.stage("train"), console.progress("epochs", 1) as advance:
        advance()
    console.warn("row 3 [x] is unreadable")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "warning: row 3 [x] is unreadable\n")


def test_muted_is_quiet_for_a_while(capsys: pytest.CaptureFixture[str]) -> None:
    with console.muted():
        console.say("inside")
        with console.progress("rows", 1) as advance:
            advance()
    with suppress(KeyError), console.muted():
        raise KeyError
    console.say("after")
    assert capsys.readouterr().out == "after\n"


def test_stage_prints_one_line_with_its_seconds(capsys: pytest.CaptureFixture[str], clock: SimpleNamespace) -> None:
    with console.stage("Calibrate"):
        clock.now = 12.34
    with pytest.raises(KeyError), console.stage("Prune"):
        raise KeyError
    assert capsys.readouterr().out == "Calibrate: 12.3 s\nPrune: stopped after 0.0 s\n"


def test_progress_off_a_terminal_is_a_few_lines(capsys: pytest.CaptureFixture[str], clock: SimpleNamespace) -> None:
    with console.progress("train", 240, unit="batch") as advance:
        for step in range(240):
            clock.now += 0.125
            advance(note=f"loss {step}")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "train: 0 of 240 batches"
    assert lines[1].startswith("train: 33%, 80 of 240 batches, 8.00 batch/s, 20.0 s left, loss 79")
    assert lines[-1] == "train: 240 of 240 batches in 30.0 s, loss 239"
    assert len(lines) == 4


def test_progress_that_stops_early_says_where(capsys: pytest.CaptureFixture[str], clock: SimpleNamespace) -> None:
    def work() -> None:
        with console.progress("blocks", 12, unit="block") as advance:
            advance(5)
            clock.now = 90.0
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert capsys.readouterr().out.splitlines()[-1] == "blocks: 5 of 12 blocks in 1 min 30 s"


def test_progress_of_nothing(capsys: pytest.CaptureFixture[str], clock: SimpleNamespace) -> None:
    with console.progress("empty", 0) as advance:
        advance(0)
    assert capsys.readouterr().out.splitlines()[-1] == "empty: 0 of 0 steps in 0.0 s"


def test_slow_work_is_told_in_seconds_per_unit(capsys: pytest.CaptureFixture[str], clock: SimpleNamespace) -> None:
    with console.progress("blocks", 3, unit="block") as advance:
        for _ in range(3):
            clock.now += 20
            advance()
    assert "20.0 s per block, 40.0 s left" in capsys.readouterr().out


def test_live_bar_and_tables_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    monkeypatch.setitem(console._consoles, False, Console(force_terminal=True, width=100, color_system=None))
    with console.stage("[work]"), console.progress("rows [x]", 4, unit="row") as advance:
        advance(4, note="[note]")
    console.table("Sizes [a]", ["name", "bytes"], [["vision [b]", "12 MB"]])
    out = capsys.readouterr().out
    assert "rows [x]: 4 of 4 rows" in out
    assert "[work]: " in out
    assert "vision [b]" in out


def test_plain_table_aligns_numbers_right_and_never_folds(capsys: pytest.CaptureFixture[str]) -> None:
    console.table("Sizes", ["name", "bytes", "why"], [["vision", "12.3 MB", "w" * 200], ["audio", "9 kB", None]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Sizes"
    assert lines[1] == "name      bytes  why"
    assert lines[3] == "vision  12.3 MB  " + "w" * 200
    assert lines[4] == "audio      9 kB"


def test_table_refuses_a_ragged_row() -> None:
    with pytest.raises(ValueError, match="table 'Sizes': row 1 has 1 cells for 2 columns"):
        console.table("Sizes", ["a", "b"], [[1, 2], [3]])


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (999, "999"), (12_345, "12.3 k"), (5e9, "5.00 G"), (2e15, "2000 T")]
)
def test_human_count(count: float, text: str) -> None:
    assert console.human_count(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (999_499, "999 kB"),
        (999_600, "1.00 MB"),
        (1.5e9, "1.50 GB"),
        (4.2e15, "4200 TB"),
    ],
)
def test_human_bytes(count: float, text: str) -> None:
    assert console.human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *[
            (0, "0.0 s"),
            (0.00042, "0.42 ms"),
            (0.5, "500 ms"),
            (0.9999, "1.0 s"),
            (3.43, "3.4 s"),
            (59.96, "1 min 00 s"),
        ],
        *[(125, "2 min 05 s"), (3599.7, "1 h 00 min"), (4800, "1 h 20 min"), (1e5, "1 d 4 h"), (np.inf, "unknown")],
    ],
)
def test_human_seconds(seconds: float, text: str) -> None:
    assert console.human_seconds(seconds) == text


def test_percent() -> None:
    assert console.percent(0.9914) == "99.1%"
    assert console.percent(1, 0) == "100%"
