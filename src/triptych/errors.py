"""Every error a person can meet: what happened, where, and what to do next.

An error is one paragraph. It names the thing (file, row, layer), and its exit code tells scripts what kind it is.
"""


class TriptychError(Exception):
    """Something went wrong that the reader can act on.

    Args:
        what: one sentence that names the thing, the row or the layer.
        next: the next step, as an instruction.
    """

    exit_code = 1

    def __init__(self, what: str, next: str = "") -> None:  # noqa: A002 - "next" is the word the reader sees
        self.what = what
        self.next = next
        super().__init__(f"{what} {next}".strip())


class InputError(TriptychError):
    """Wrong usage or bad input: a file, a row, a recipe, a plan, a model folder."""

    exit_code = 2


class ArtifactError(InputError):
    """A model folder is damaged, incomplete, of another run, or not ours."""


class LimitError(InputError):
    """An input is larger than `triptych.limits` allows; refused before any work on it."""


class BudgetError(InputError):
    """No plan fits the budget; the message says the smallest that is possible."""


class NumericsError(TriptychError):
    """A NaN or infinity appeared; the message names the component and the step or sample."""


class ContractBroken(TriptychError):
    """The compressed model does not keep the promised quality."""

    exit_code = 3


class Stopped(TriptychError):
    """The work was stopped (Ctrl-C, a signal, a full disk) and the same command resumes it."""

    exit_code = 75
