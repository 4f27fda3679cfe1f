"""The training log: JSON lines always, TensorBoard on request."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO


class Log:
    """Appends one JSON object a line to `folder/log.jsonl`; without a folder it keeps nothing."""

    def __init__(self, folder: Path | None, *, tensorboard: bool = False) -> None:
        self._file: TextIO | None = None
        self._board: Any = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / "log.jsonl").open("a")
            if tensorboard:
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(str(folder / "tensorboard"))

    def write(self, step: int, **values: float) -> None:
        """Record named numbers at a step."""
        if self._file is not None:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def __enter__(self) -> "Log":  # noqa: PYI034 - run-time type checks know no Self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


def read_log(path: Path) -> list[dict[str, float]]:
    """The log's lines; where a run was resumed, a step that was done twice counts once, as it was done last."""
    points: dict[tuple[float, bool], dict[str, float]] = {}
    for line in path.read_text().splitlines():
        try:
            point = json.loads(line)
        except json.JSONDecodeError:  # the run was killed in the middle of a line
            continue
        points[point["step"], "valid" in point] = point
    return [points[key] for key in sorted(points)]
