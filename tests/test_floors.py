"""The house has floors: a module imports from its own floor or below, and never in a circle.

Losses and metrics stand below the nets, because the nets score pictures with the SSIM and gradient
maps of `vision.losses`; in return they import nothing but `data`. Imports inside functions count
like all others. Only `vision/__init__.py` stands on no floor: everyone may import its attributes,
and it imports from the floors late or under TYPE_CHECKING alone.
"""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

FLOORS = (  # from the ground up
    ("data",),
    ("vision.backbones", "vision.body", "vision.layers"),
    ("vision.losses", "vision.metrics"),
    ("vision.restoration", "vision.anomaly", "vision.mesh"),
    ("vision.tasks",),
    ("vision.run", "vision.report", "vision.serve"),
    ("vision.cli", "vision.demo"),
)
FLOOR = {unit: number for number, units in enumerate(FLOORS) for unit in units}
PLAIN = ("vision.losses", "vision.metrics")
Import = ast.Import | ast.ImportFrom


def unit(module: str) -> str:
    return "data" if module.startswith("data.") else ".".join(module.split(".")[:2])


def find(root: Path) -> dict[str, Path]:
    files = sorted(file for top in ("data", "vision") for file in (root / top).rglob("*.py"))
    parts = {file: file.relative_to(root).with_suffix("").parts for file in files}
    return {".".join(p[:-1] if p[-1] == "__init__" else p): f for f, p in parts.items()}


def statements(node: ast.AST, late: bool = False) -> Iterator[tuple[Import, bool]]:
    """Every import statement, and whether it runs after the module is loaded (or never)."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Import):
            yield child, late
        function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        typing = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
        yield from statements(child, late or function or typing)


def targets(root: Path) -> Iterator[tuple[str, str, str, bool]]:
    """Every import within the house: module, "file:line", the module it imports, late or not."""
    modules = find(root)
    packages = {module.rpartition(".")[0] for module in modules}  # also those without __init__.py
    for module, file in modules.items():
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        for node, late in statements(ast.parse(file.read_text("utf-8"), str(file))):
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                base = resolve_name("." * node.level + (node.module or ""), package)
                inner = [f"{base}.{name}" for name in names]
                names = [name if name in modules or name in packages else base for name in inner]
            for name in dict.fromkeys(names):
                if name != "vision" and name.split(".")[0] in ("data", "vision"):
                    yield module, f"{file.relative_to(root)}:{node.lineno}", name, late


def problems(root: Path) -> list[str]:
    found = [
        f'{module} is on no floor; add "{unit(module)}" to FLOORS in tests/test_floors.py'
        for module in find(root)
        if unit(module) not in FLOOR and module != "vision"
    ]
    graph: dict[str, set[str]] = {}
    for module, place, name, late in targets(root):
        graph.setdefault(module, set()).add(name)
        own, other = unit(module), unit(name)
        if module == "vision" and not late:
            found.append(f"{place} imports {name} at once; import it inside a function")
        elif FLOOR.get(own, len(FLOORS)) < FLOOR.get(other, 0):
            found.append(f"{place} imports {name} from a floor above {own}")
        elif own in PLAIN and other not in (own, "data"):
            found.append(f"{place} imports {name}; losses and metrics import nothing but data")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append("circle, each imports the next: " + " → ".join(reversed(error.args[1])))
    return found


def test_the_house_stands() -> None:
    root = Path(__file__).parents[1]
    assert {"data", "vision"} < find(root).keys()
    assert not problems(root), "\n".join(problems(root))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"vision/run/a": "from vision.report import b", "vision/report/b": "import torch"}, ""),
        ({"vision/tasks/a": "from vision import __version__\nimport vision.losses.b"}, ""),
        ({"vision/__init__": "def load():\n    from vision.run import a", "vision/run/a": ""}, ""),
        ({"vision/__init__": "import vision.run.a"}, "/__init__.py:1 imports vision.run.a at once"),
        ({"data/a": "def f():\n    import vision.body"}, "data/a.py:2 imports vision.body from a"),
        ({"vision/mesh/a": "from .. import cli", "vision/cli": ""}, "imports vision.cli from a fl"),
        ({"vision/metrics/a": "import vision.layers"}, "losses and metrics import nothing but"),
        ({"vision/run/a": "from . import b", "vision/run/b": "import vision.run.a"}, "circle"),
        ({"vision/attic/a": ""}, 'vision.attic.a is on no floor; add "vision.attic" to FLOORS'),
    ],
)
def test_the_inspector(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    for name, text in files.items():
        file = tmp_path / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    found = problems(tmp_path)
    assert len(found) == (expected != "")
    assert expected in "".join(found)
