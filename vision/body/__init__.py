"""Body models behind one interface, rotations and cameras."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vision.body.anny import Anny, AnnyMakeHuman
from vision.body.model import Body, BodyModel
from vision.body.smpl import SMPL, SMPLX

__all__ = ["SMPL", "SMPLX", "Anny", "AnnyMakeHuman", "Body", "BodyModel", "available", "create"]

FREE: dict[str, Callable[[], BodyModel]] = {"anny": Anny, "anny_makehuman": AnnyMakeHuman}
GATED = {
    # Where each is looked for, below the folder, what to download, and who gives it away after a
    # registration.
    "smplx": ("smplx/SMPLX_{}.npz", "SMPL-X, models", "https://smpl-x.is.tue.mpg.de"),
    "smpl": ("smpl/SMPL_{}.pkl", "SMPL for Python", "https://smpl.is.tue.mpg.de"),
}


def create(
    name: str = "anny",
    folder: Path | None = None,
    gender: str = "neutral",
    betas: int = 10,
    expressions: int = 10,
) -> BodyModel:
    """A body model.

    Args:
        name: `anny`, which is free and comes with the package, `anny_makehuman`, the same on other
            bones, `smplx` or `smpl`.
        folder: where the files of the other two are, as `smplx/SMPLX_NEUTRAL.npz` and
            `smpl/SMPL_NEUTRAL.pkl`.
        gender: of these: neutral, female or male.
        betas: how many shapes these have.
        expressions: how many of `smplx`.

    Raises:
        ValueError: an unknown name; a damaged file, or one with fewer betas or expressions.
        FileNotFoundError: the files are not there; says what to download, and where to put it.
    """
    if name in FREE:
        return FREE[name]()
    if name not in GATED:
        raise ValueError(f"body model {name}: choose one of {', '.join([*FREE, *GATED])}")
    path = _path(name, folder, gender)
    if not path.is_file():
        raise FileNotFoundError(
            f"{missing(name, folder, gender)}, or use anny, which needs no file"
        )
    return SMPL(path, betas) if name == "smpl" else SMPLX(path, betas, expressions)


def available(folder: Path | None = None, gender: str = "neutral") -> dict[str, bool]:
    """Which body models can be created, by name."""
    gated = {name: _path(name, folder, gender).is_file() for name in GATED}
    return {**dict.fromkeys(FREE, True), **gated}


def missing(name: str, folder: Path | None = None, gender: str = "neutral") -> str:
    """Where the file of a gated model is wanted, and whence it comes."""
    path, (_, archive, site) = _path(name, folder, gender), GATED[name]
    return (
        f"{path} is not there; register at {site}, download {archive}, and put the {gender} model"
        f" there under this name"
    )


def _path(name: str, folder: Path | None, gender: str = "neutral") -> Path:
    return (folder or Path("body_models")) / GATED[name][0].format(gender.upper())
