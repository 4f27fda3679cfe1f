"""Which weights of a model are rounded and how, chosen by component; and of every other weight, why it stays dense."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import nn

from triptych.compress.plan import SCHEME
from triptych.errors import InputError
from triptych.models.components import Component

DENSE = "fp32"
# Encoders, connectors and fusions are bound by arithmetic, which eight-bit products speed up; token-by-token decoders
# by the bytes of their weights. Heads and tables are a small share of the work and answer at once for what they lose.
BY_ROLE = {"encoder": "w8a8t", "connector": "w8a8t", "fusion": "w8a8t", "decoder": "w4g64", "head": DENSE}

LADDER = ("w2g64", "w2g32", "w3g64", "w4g64", "w5g64", "w6g64")  # below eight bits


@dataclass(frozen=True)
class Choice:
    """What is decided about each parameter with two axes or more.

    Attributes:
        layers: the scheme word of every weight that is rounded, by parameter name.
        dense: why each of the others stays.
        component: the component that each belongs to.
    """

    layers: dict[str, str] = field(default_factory=dict)
    dense: dict[str, str] = field(default_factory=dict)
    component: dict[str, str] = field(default_factory=dict)

    def reasons(self) -> dict[str, Counter[str]]:
        """How many weights of each component stay dense for which reason."""
        found: dict[str, Counter[str]] = {}
        for name, why in self.dense.items():
            found.setdefault(self.component[name], Counter())[why] += 1
        return found


def choose(
    model: nn.Module, parts: Sequence[Component], called: Collection[str], wanted: Mapping[str, str] | None = None
) -> Choice:
    """Decide about every weight.

    Args:
        model: its parameters may be on the meta device.
        parts: the components, which own every parameter once.
        called: names of the modules that ran in a forward pass.
        wanted: scheme words by component name or pattern (`image.encoder`, `*.connector`, `*`); the last that matches
            wins. Components that none matches follow `BY_ROLE`.

    Raises:
        InputError: a pattern that matches no component, or a word that is no scheme.
    """
    wanted = dict(wanted or {})
    _check(wanted, parts)
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    choice = Choice()
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            continue
        part = next((part for part in parts if part.owns(name)), None)
        choice.component[name] = part.name if part else "none"
        module = model.get_submodule(name.rpartition(".")[0])
        others = [other for other in names[id(parameter)] if other != name]
        why = _why_not(module, name, others, called)
        word = DENSE if part is None else _word(part, wanted)
        if why is None and word == DENSE:
            why = "left dense by the plan"
        if why is None:
            choice.layers[name] = word
        else:
            choice.dense[name] = why
    return choice


def ladder(part: Component, wanted: Mapping[str, str]) -> tuple[str, ...]:
    """The words that a budget may choose from for a component: its own, where one is wanted, else every width."""
    if any(fnmatchcase(part.name, pattern) for pattern in wanted):
        return (_word(part, wanted),)
    own = BY_ROLE.get(part.role, DENSE)
    return (*LADDER, own if own.startswith("w8") else "w8", DENSE)


def _check(wanted: Mapping[str, str], parts: Sequence[Component]) -> None:
    for pattern, word in wanted.items():
        if not any(fnmatchcase(part.name, pattern) for part in parts):
            raise InputError(
                f"The plan selects the component {pattern!r}, which matches nothing.",
                f"The components are: {', '.join(part.name for part in parts)}.",
            )
        if word != DENSE and not SCHEME.fullmatch(word):
            raise InputError(f"{pattern}: {word!r} is not a scheme.", "Write fp32, w8a8t, w8, w4g64, f8 and the like.")


def _word(part: Component, wanted: Mapping[str, str]) -> str:
    matching = [word for pattern, word in wanted.items() if fnmatchcase(part.name, pattern)]
    return matching[-1] if matching else BY_ROLE.get(part.role, DENSE)


def _why_not(module: nn.Module, name: str, others: Sequence[str], called: Collection[str]) -> str | None:
    """Why a weight cannot be rounded, or None."""
    kind = type(module).__name__
    if isinstance(module, nn.Embedding):
        return "a look-up table"
    if not isinstance(module, nn.Linear) or not name.endswith(".weight"):
        return f"read by {kind}: the format stores weights of linear layers"
    if others:
        return f"shared with {others[0]}"
    if name.removesuffix(".weight") not in called:
        return "its layer did not run in a forward pass"
    return None
