"""The page that shows why: explanation.html beside explanation.json, with everything it shows inside it."""

from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field

from triptych.report import words
from triptych.report.page import environment
from triptych.report.schema import Answer, Environment, Record, SampleField


class Part(Record):
    """What one field gave to one answer: the amount without it, and its share of all (its Shapley value)."""

    field: SampleField
    without: float
    share: float


class Row(Record):
    """One row, explained: the amount asked about goes from `none`, with no field at all, to `all`."""

    place: str
    truth: str | None
    answer: Answer
    none: float
    all: float
    parts: tuple[Part, ...]
    attention: tuple[tuple[float, ...], ...] = ()  # in the fusion: row i is what field i took from each


class Blanked(Record):
    """The mean amount with the part of a field blanked that its map shows, and with a part drawn at random."""

    whole: float
    shown: float
    random: float


class Overview(Record):
    """One field over many rows."""

    name: str
    share: float  # mean of its shares; of a number, of their sizes
    shares: tuple[float, ...]
    without: float
    grid: tuple[int, int] | None = None
    blanked: Blanked | None = None


class Explanation(Record):
    """Everything that was found out about why a model answers as it does; `explanation.json` is this and nothing else."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    version: Literal[1] = Field(default=1, alias="schema")
    title: str
    command: str
    unit: Literal["probability", "number"]
    rows: int  # over which the overview goes
    none: float
    all: float
    blanked_share: float
    gradients: Literal["own", "mean"]
    overview: tuple[Overview, ...]
    shown: tuple[Row, ...]
    environment: Environment

    def to_json(self) -> str:
        """The text of explanation.json."""
        return self.model_dump_json(indent=1) + "\n"

    def say(self, amount: float) -> str:
        """An amount as the page says it."""
        return f"{100 * amount:.0f}%" if self.unit == "probability" else words.figures(amount)

    def change(self, share: float) -> str:
        """A share with its sign: points of probability, or the number's own unit."""
        if self.unit == "probability":
            return f"{100 * share:+.0f}".replace("-", "\N{MINUS SIGN}") if abs(share) >= 0.005 else "0"
        return f"{share:+.3g}".replace("-", "\N{MINUS SIGN}")

    def headline(self) -> str:
        """What it all comes to, in one sentence."""
        given = ", ".join(f"{field.name} {self.change(field.share)}" for field in self.overview)
        if self.unit == "probability":
            return f"From {self.say(self.none)} with nothing to {self.say(self.all)} with everything: {given}."
        return f"By how much each field moves the number, on average: {given.replace('+', '')}."

    def summary(self) -> str:
        """What the headline's figures are."""
        if self.unit == "probability":
            return f"The mean probability given to the truth over {self.rows:,} rows, in points, and how the fields share in it."
        return f"The mean size of each field's share in the predicted number over {self.rows:,} rows."

    def range(self) -> tuple[float, float]:
        """The axis that all fields' shares have in common; 0 is on it."""
        every = [share for field in self.overview for share in field.shares]
        return min(0.0, *every), max(*every, 1e-9)

    def method(self) -> list[str]:
        """How each thing on the page was found."""
        own = " with every cell's own gradient (HiResCAM)"
        asked = "the probability of the true class, of the likeliest where no truth is known"
        return [
            f"What is explained is {asked if self.unit == 'probability' else 'the predicted number'}.",
            "A field's share is its Shapley value: the mean, over all orders in which the fields may arrive, of what it adds.",
            "A field that is left out is replaced by the learned token that stands for absence.",
            "The shares of a row sum to what is known with everything, less what is known with nothing.",
            f"Light is Grad-CAM{own if self.gradients == 'own' else ''}, the brightest cell of each map at full light.",
            f"A map is checked by what it costs to blank the brightest {self.blanked_share:.0%} of it, against as much at random.",
            "Words are shaded by integrated gradients from a blank of the same length, the strongest of each text in full.",
            "Attention is its flow through all layers (rollout), from least to most. It says where from, not for which answer.",
        ]


def render(explanation: Explanation) -> str:
    """The page's HTML. The same explanation gives the same bytes."""
    return environment().get_template("explained.html.j2").render(e=explanation)


def write_explanation(explanation: Explanation, folder: Path) -> None:
    """Write explanation.json and explanation.html into the staging folder of `artifact.publish`."""
    (folder / "explanation.json").write_text(explanation.to_json(), encoding="utf-8")
    (folder / "explanation.html").write_text(render(explanation), encoding="utf-8")
