"""Generated sets that a second call goes on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def begin(root: Path, options: dict[str, Any]) -> None:
    """Note in root/options.json what a set is made with, or see that it was begun with the same.

    Raises:
        ValueError: it was begun with other options.
    """
    told = root / "options.json"
    if told.exists() and (begun := json.loads(told.read_text())) != options:
        raise ValueError(f"{root}: was begun with {begun}, not {options}; name another folder")
    root.mkdir(parents=True, exist_ok=True)
    told.write_text(json.dumps(options) + "\n")
