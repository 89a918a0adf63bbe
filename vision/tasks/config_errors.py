"""A wrong key or value in a recipe, told in one line: the key, and what was expected."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Iterable
from typing import Any, ClassVar, NoReturn

from lightning.pytorch.cli import LightningArgumentParser


class Parser(LightningArgumentParser):
    """LightningCLI's parser, whose errors are one line with status 2, without pages of usage."""

    options: ClassVar[set[str]] = set()  # of all subcommands: the error comes from the one above

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        self.note_options()
        known = self.options - {"help", "config"}
        print(f"error: {explain(message, known)}", file=sys.stderr)
        sys.exit(2)

    def note_options(self) -> None:
        self.options.update(action.dest for action in self._actions)


def explain(message: str, known: Iterable[str]) -> str:
    """One line from the parser's message, with the accepted names nearest to the wrong one."""
    line = re.sub(r"\s+", " ", message).strip()
    line = _shorter(re.sub(r"<class '([\w.]+)'>", r"\1", line))
    missing = re.search(r"module '([\w.]+)' has no attribute '(\w+)'", line)
    if missing:
        names = vars(importlib.import_module(missing[1]))
        classes = [name for name, value in names.items() if isinstance(value, type)]
        return f"{line}; {_expected(missing[2], classes)}"
    if "No module named" in line:
        return f"{line}; give the whole path of a class, such as vision.anomaly.EAR"
    wrong = re.search(r"Option '([^']+)' is not accepted", line)
    owner = re.findall(r"class_path '([\w.]+)'", line)
    if wrong and owner:
        return f"{line}; {_expected(wrong[1], _parameters(owner[-1]))}"
    wrong = re.search(r"unrecognized arguments: -*([\w.]+)", line) or re.search(
        r"does not accept option '([^']+)'|Option '([^']+)' is not accepted", line
    )
    if wrong:
        return f"{line}; {_expected(next(g for g in wrong.groups() if g), known)}"
    return line


def _shorter(line: str) -> str:
    """Of a value that fits none of several types, the one reason that a class gave, if any."""
    shape = r"(.*)Does not validate against .* Errors: - (.*) Given value type.*Given value: (.*)"
    union = re.fullmatch(shape, line)
    if not union:
        return line
    reasons = union[2].split(" - ")
    told = [reason for reason in reasons if not reason.startswith("Expected a ")]
    if told:
        return union[1] + told[0]
    types = [reason.removeprefix("Expected a ") for reason in reasons]
    return f"{union[1]}Expected a {' or '.join(types)}. Got value: {union[3]}"


def _expected(wrong: str, accepted: Iterable[str]) -> str:
    accepted = sorted(accepted)
    tail = {name.rpartition(".")[2]: name for name in accepted}
    near = difflib.get_close_matches(wrong, accepted, n=3) or [
        tail[name] for name in difflib.get_close_matches(wrong.rpartition(".")[2], tail, n=3)
    ]
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"expected one of {', '.join(accepted[:30])}"


def _parameters(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    cls: Any = getattr(importlib.import_module(module), name)
    return list(inspect.signature(cls).parameters)
