"""Which modules a `quantization_config` speaks of, in patterns that every reader understands.

compressed-tensors takes a target as a module's exact name, as a regular expression after "re:", or as a class.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

NESTED = "model.language_model.", "language_model.model."  # a text model inside a larger one: in transformers, in vLLM
MIDDLE, NUMBER = "\1", "\0"  # places in a template; neither can stand in a module's name
WHOLE = rf"(?<![^.{MIDDLE}])\d+(?![^.{MIDDLE}])"  # a number that is all of a name between two dots


def targets(names: Iterable[str], on_disk: Mapping[str, str], known: Iterable[str]) -> list[str]:
    """Few patterns that match exactly these modules, under each name that a reader may know them by.

    A reader sees a module under its name in the built model, under its name on disk, without the prefix of the base model
    (`AutoModel`), or as vLLM nests it. Layers that differ in their number alone share a pattern: a reader tries every
    pattern on every module, and Python keeps only 512 compiled.

    Args:
        names: module names in the built model.
        on_disk: by module name, its name on disk where that differs.
        known: every name that stands for a module; another module's name is never used for this one.
    """
    taken = set(known)
    found: dict[tuple[str, tuple[str, ...]], set[str]] = defaultdict(set)
    for name in names:
        stored_name = on_disk.get(name, name)
        others = {name.removeprefix("model."), name.replace(*NESTED, 1)} - taken
        before, middles, after = _factored(sorted({name, stored_name, *others}))
        template = f"{before}{MIDDLE}{after}"
        number = re.search(WHOLE, template)
        if number:
            template = f"{template[: number.start()]}{NUMBER}{template[number.end() :]}"
        elif len(inner := {tuple(re.findall(WHOLE, middle)) for middle in middles}) == 1 and min(inner):
            number = re.search(WHOLE, middles[0])  # every spelling has the same number within
            middles = tuple(re.sub(WHOLE, NUMBER, middle, count=1) for middle in middles)
        found[template, middles].add(number[0] if number else "")
    return sorted(_pattern(template, middles, numbers) for (template, middles), numbers in found.items())


def _factored(names: list[str]) -> tuple[str, tuple[str, ...], str]:
    """What the names begin with, how they go on, and what they end in: each is a beginning, a middle and the end."""
    if len(names) == 1:
        return "", ("",), names[0]
    words = [name.split(".") for name in names]
    shortest = min(map(len, words))
    start = next((i for i in range(shortest) if len({w[i] for w in words}) > 1), shortest)
    stop = next((i for i in range(shortest - start) if len({w[-1 - i] for w in words}) > 1), shortest - start)
    before = "".join(f"{word}." for word in words[0][:start])
    after = ".".join(words[0][len(words[0]) - stop :])
    middles = [w[start : len(w) - stop] for w in words]
    return before, tuple("".join(f"{word}." for word in m) if after else ".".join(m) for m in middles), after


def _pattern(template: str, middles: tuple[str, ...], numbers: set[str]) -> str:
    """One target: the plain name where one module is meant under one name, else a regular expression."""
    if len(middles) == len(numbers) == 1:
        return template.replace(MIDDLE, *middles).replace(NUMBER, min(numbers))

    def any_of(choices: Iterable[str]) -> str:
        options = [re.escape(choice) for choice in choices]
        return options[0] if len(options) == 1 else f"(?:{'|'.join(options)})"

    counted = any_of(sorted(numbers, key=lambda n: int(n or 0)))
    return f"re:^{re.escape(template).replace(MIDDLE, any_of(middles)).replace(NUMBER, counted)}$"
