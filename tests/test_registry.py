from importlib.metadata import EntryPoint

import pytest

from triptych import registry
from triptych.errors import InputError


def test_a_strangers_component_comes_through_an_entry_point(monkeypatch):
    registry.names("fusion")  # its room is imported before the copy is made, or the copy alone would know what is in it
    point = EntryPoint(name="echo", value="collections:OrderedDict", group="triptych.fusion")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == point.group else [])
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    from collections import OrderedDict

    assert "echo" in registry.names("fusion")
    assert registry.find("fusion", "echo") is OrderedDict


def test_a_taken_name_is_a_programming_error(monkeypatch):
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    registry.register("task", "mine")(int)
    with pytest.raises(ValueError, match="task 'mine' is registered twice"):
        registry.register("task", "mine")(float)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match=r"There is no encoder called 'zzz'\. Choose one of: cnn, frames, mlp,"):
        registry.find("encoder", "zzz")
    with pytest.raises(InputError, match=r"Did you mean 'transformer'\?"):
        registry.find("encoder", "transfromer")
