"""What goes wrong around the compression of a folder: another process, a signal, too little memory or disk, numbers that are none."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from triptych import artifact, cli, console, durable
from triptych.compress import driver, offload
from triptych.compress.hub import prepare as preparing
from triptych.compress.hub import verb
from triptych.compress.hub.request import HubRequest, read_bytes, work_folder
from triptych.compress.hub.verb import compress_folder
from triptych.errors import ArtifactError, InputError, NumericsError, Stopped

COMMAND = "triptych compress model --data data --out small"


def request(folder: Path, out: Path) -> HubRequest:
    return HubRequest(model=folder / "model", data=folder / "data", out=out, rows=6, check=0)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(llava: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What comes out when nothing goes wrong."""
    out = tmp_path_factory.mktemp("whole") / "small"
    compress_folder(request(llava, out), command=COMMAND)
    return content(out)


def test_a_second_process_is_told_before_any_work(llava: Path, tmp_path: Path) -> None:
    with artifact.alone(tmp_path / "small"), pytest.raises(ArtifactError, match=r"small is being written by another"):
        compress_folder(request(llava, tmp_path / "small"), command=COMMAND)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_what_the_same_command_goes_on_from(
    llava: Path, tmp_path: Path, whole: dict[str, bytes], number: signal.Signals
) -> None:
    out = tmp_path / "small"
    child = os.fork()
    if not child:
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            torch.set_num_threads(1)
            console.set_mode(quiet=True)
            words = ["--data", str(llava / "data"), "--rows", "6", "--check", "0", "--out", str(out)]
            sys.argv = ["triptych", "compress", str(llava / "model"), *words]
            cli.main()
        except SystemExit as leave:
            code = int(leave.code or 0)
        finally:
            os._exit(code)
    while not list(work_folder(out).glob("*.safetensors")):
        assert os.waitpid(child, os.WNOHANG)[0] == 0, "the compression ended before it was stopped"
        time.sleep(0.002)
    os.kill(child, number)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 75
    assert [path.name for path in tmp_path.iterdir()] == [work_folder(out).name]
    compress_folder(request(llava, out), command=COMMAND)
    assert content(out) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def failing(error: Exception, least_rows: int) -> Iterator[None]:
    """Have the rounding of a group fail for as long as that many rows walk together."""
    with pytest.MonkeyPatch.context() as patch:
        real = driver._round_group

        def fails(*given: object) -> None:
            if any(isinstance(g, list) and max(getattr(b, "rows", 0) for b in g) >= least_rows for g in given):
                raise error
            real(*given)

        patch.setattr(driver, "_round_group", fails)
        yield


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes.")],
)
def test_where_memory_does_not_suffice_samples_go_one_by_one(llava: Path, tmp_path: Path, error: Exception) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "JOINED", 1)
        compress_folder(request(llava, tmp_path / "small"), command=COMMAND)
    for _ in failing(error, 2):
        report = compress_folder(request(llava, tmp_path / "again"), command=COMMAND)
    assert report["recovered_from"] == ["memory did not suffice after 0 blocks; from there on samples one by one"]
    one, other = (content(tmp_path / name) for name in ("small", "again"))
    assert one["model.safetensors"] == other["model.safetensors"]


def test_then_what_samples_hold_goes_to_the_disk(
    llava: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    walks: list[int] = []
    real = verb._round

    def twice_too_much(*given: Any) -> Any:
        walks.append(len(walks))
        if len(walks) < 3:
            raise MemoryError
        return real(*given)

    monkeypatch.setattr(verb, "_round", twice_too_much)
    monkeypatch.setattr(preparing, "JOINED", 1)
    monkeypatch.setattr(verb, "WAITING_BYTES", 10_000)
    monkeypatch.setattr(offload, "SMALL", 64)
    report = compress_folder(request(llava, tmp_path / "small"), command=COMMAND)
    assert len(report["recovered_from"]) == 2
    assert report["recovered_from"][1].endswith("from there on what they hold on disk while they wait")
    monkeypatch.undo()
    monkeypatch.setattr(preparing, "JOINED", 1)
    compress_folder(request(llava, tmp_path / "whole"), command=COMMAND)
    assert content(tmp_path / "small")["model.safetensors"] == content(tmp_path / "whole")["model.safetensors"]


def test_where_no_less_can_be_done_at_a_time_it_stops(llava: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    for _ in failing(MemoryError(), 1):
        with pytest.raises(Stopped, match=r"Memory does not suffice to round the next block, with 0 finished"):
            compress_folder(request(llava, tmp_path / "small"), command=COMMAND)
    assert [path.name for path in tmp_path.iterdir()] == [work_folder(tmp_path / "small").name]
    compress_folder(request(llava, tmp_path / "small"), command=COMMAND)
    assert content(tmp_path / "small") == whole


def test_another_error_is_not_taken_for_a_lack_of_memory(llava: Path, tmp_path: Path) -> None:
    for _ in failing(RuntimeError("something else"), 1):
        with pytest.raises(RuntimeError, match="something else"):
            compress_folder(request(llava, tmp_path / "small"), command=COMMAND)


LIMITED = """
import json, numpy, torch
from triptych.compress.hub.memory import limit_memory, out_of_memory, resident_bytes
limit_memory(resident_bytes() + 200_000_000)
said = []
for make in (lambda: torch.ones(30_000_000), lambda: torch.ones(90_000_000), lambda: numpy.ones(90_000_000)):
    try:
        make()
        said.append(None)
    except (MemoryError, RuntimeError) as error:
        said.append(out_of_memory(error))
print(json.dumps(said))
"""


def test_a_limit_makes_allocations_fail_that_can_be_answered() -> None:
    run = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == [None, True, True]


def test_amounts_of_memory() -> None:
    assert read_bytes("3GB") == 3_000_000_000
    assert read_bytes(None) is None
    with pytest.raises(InputError, match="is not a amount of memory"):
        read_bytes("much")


def stopping(number: int, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the system refuse every step whose name begins so."""

    def refuse(doing: str) -> None:
        if doing.startswith(step):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(durable, "_before", refuse)


@pytest.mark.parametrize("step", ["write .0000", "fsync .shard", "write manifest", "rename .small.staging"])
def test_a_full_disk_costs_nothing_that_was_finished(
    llava: Path, tmp_path: Path, whole: dict[str, bytes], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stopping(errno.ENOSPC, step, patch)
        with pytest.raises(
            Stopped, match=r"could not be written: No space left on device.* make room and run the same"
        ):
            compress_folder(request(llava, tmp_path / "small"), command=COMMAND)
    assert [path.name for path in tmp_path.iterdir()] == [work_folder(tmp_path / "small").name]
    compress_folder(request(llava, tmp_path / "small"), command=COMMAND)
    assert content(tmp_path / "small") == whole


def test_a_target_that_cannot_be_written_is_told_before_any_work(
    llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(doing: str) -> None:
        if doing.startswith("lock"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path / ".small.lock"))

    monkeypatch.setattr(durable, "_before", refuse)
    with pytest.raises(InputError, match=r"small cannot be written: Read-only file system\. Choose another output"):
        compress_folder(request(llava, tmp_path / "small"), command=COMMAND)
    assert list(tmp_path.iterdir()) == []


def test_a_nan_on_the_way_is_told_by_component_block_layer_modality_and_sample(
    llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(asked: HubRequest) -> preparing.Prepared:
        ready = preparing.prepare(asked)
        name = next(n for n, _ in ready.stream.model.named_modules() if n.endswith("layers.0.layer_norm1"))
        ready.stream.model.get_submodule(name).register_forward_hook(poison)
        return ready

    def poison(_module: torch.nn.Module, _inputs: Any, out: torch.Tensor) -> None:
        if len(out) > 2:  # the samples with a picture, 1 to 7, walk together
            out[2, 1, 0] = torch.nan

    monkeypatch.setattr(verb, "prepare", poisoned)
    asked = HubRequest(
        model=llava / "model", data=llava / "data", out=tmp_path / "small", rows=8, check=0, components={"*": "w4"}
    )
    said = r"^image\.encoder: .*layers\.0\.self_attn\.._proj \(block .*layers\.0\) holds NaN .*: image of calibration sample 3\."
    with pytest.raises(NumericsError, match=said):
        compress_folder(asked, command=COMMAND)
