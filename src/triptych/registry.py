"""One small registry: a component is found by (kind, name); ours and other packages' come through the same door.

A component class carries its own pydantic ``Config`` as an attribute. Another package adds one by an entry point in the group
``triptych.<kind>`` (for example ``triptych.encoder``) that points at the class.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Literal, TypeVar

from triptych.errors import InputError

Kind = Literal["encoder", "fusion", "decoder", "task", "quantizer", "importance", "distillation", "engine"]
T = TypeVar("T")

# Importing a room files its components; a kind's room is imported when the kind is first asked for.
ROOMS: dict[Kind, tuple[str, ...]] = {
    "encoder": ("triptych.encoders",),
    "fusion": ("triptych.fusion",),
    "decoder": ("triptych.decoders",),
    "task": ("triptych.tasks",),
    "quantizer": tuple(
        f"triptych.compress.quantize.{name}" for name in ("rtn", "gptq", "gptaq", "descent", "hqq", "float8")
    ),
    "importance": ("triptych.compress.prune",),
    "distillation": ("triptych.compress.distill",),
    "engine": ("triptych.engines.torch", "triptych.engines.openvino"),
}

_entries: dict[tuple[str, str], Any] = {}


def register(kind: Kind, name: str) -> Callable[[T], T]:
    """Decorator that files a component under (kind, name). A taken name is a programming error."""

    def file(component: T) -> T:
        taken = _entries.get((kind, name))
        if taken is not None and taken is not component and taken.__qualname__ != component.__qualname__:  # type: ignore[attr-defined]
            raise ValueError(f"{kind} {name!r} is registered twice: {taken} and {component}")
        _entries[kind, name] = component
        return component

    return file


def find(kind: Kind, name: str) -> Any:
    """The component registered as (kind, name).

    Raises:
        InputError: no such component; the message lists the names and the nearest one.
    """
    _open(kind)
    if (kind, name) not in _entries:
        for entry in entry_points(group=f"triptych.{kind}"):
            if entry.name == name:
                register(kind, name)(entry.load())
    if (kind, name) not in _entries:
        known = names(kind)
        near = get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Choose one of: {', '.join(known)}."
        raise InputError(f"There is no {kind} called {name!r}.", hint)
    return _entries[kind, name]


def build(kind: Kind, settings: Mapping[str, Any], *args: Any) -> Any:
    """The component that `settings["name"]` asks for, made from the other settings.

    Raises:
        InputError: an unknown name, or a setting that the component does not have.
    """
    settings = dict(settings)
    component = find(kind, settings.pop("name"))
    try:
        config = component.Config(**settings)
    except ValueError as error:
        lines = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())  # type: ignore[attr-defined]
        raise InputError(
            f"The settings of {kind} {component.__name__} do not fit ({lines}).",
            f"It takes: {', '.join(component.Config.model_fields)}.",
        ) from error
    return component(config, *args)


def names(kind: Kind) -> list[str]:
    """All names of a kind, those of installed entry points included."""
    _open(kind)
    ours = {name for (k, name) in _entries if k == kind}
    return sorted(ours | {entry.name for entry in entry_points(group=f"triptych.{kind}")})


def _open(kind: Kind) -> None:
    for room in ROOMS[kind]:
        import_module(room)
