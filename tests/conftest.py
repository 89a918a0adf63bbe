"""What several test files share: generated parts, and one detector trained on them."""

from pathlib import Path

import pytest
from hypothesis import settings
from trained import fit, write_recipe

from data.synthetic import write_mvtec

settings.register_profile("shared", deadline=None)  # machines are shared: no test is timed
settings.register_profile("quick", deadline=None, max_examples=20)  # of 100: the inner loop's share
settings.load_profile("shared")


@pytest.hookimpl(tryfirst=True)  # before marks are looked at
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever asks for the trained detector is slow: training it takes most of ten seconds."""
    for item in items:
        if "trained" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated parts of 64 pixels in the MVTec AD layout: 10 to learn from, 3 good, 5 bad."""
    root = tmp_path_factory.mktemp("data") / "parts"
    return write_mvtec(root, train=10, good=3, bad=5, size=64)


@pytest.fixture(scope="session")
def trained(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an EAR trained for 20 steps; to be read only."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = write_recipe(folder / "tiny.yaml", parts)
    assert fit(recipe, run=folder / "runs") == 0
    return folder / "runs" / "tiny" / "001"


@pytest.fixture
def recipe(parts: Path, tmp_path: Path) -> Path:
    """The recipe of `trained`, to be changed by flags."""
    return write_recipe(tmp_path / "tiny.yaml", parts)
