"""visionmend: restore images, inspect factory parts, recover people as meshes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vision.run.shipped import models
    from vision.run.weights import load

__version__ = "0.1.0"
__all__ = ["configs", "load", "models"]


def configs() -> Path:
    """The folder of recipes: inside the installed package, or beside it in a checkout."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "configs"


def __getattr__(name: str) -> Any:
    if name == "load":  # late, so that `import vision` stays fast
        from vision.run.weights import load

        return load
    if name == "models":
        from vision.run.shipped import models

        return models
    raise AttributeError(f"module 'vision' has no attribute '{name}'")
