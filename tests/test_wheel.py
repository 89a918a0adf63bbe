"""The wheel, as a stranger gets it: built, put into a fresh environment and run from elsewhere."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    """Run with nothing of our own environment; returns what was printed, asserts exit status 0."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "NO_COLOR": "1"}
    # Matplotlib, which torchmetrics imports where it is installed, makes folders in HOME.
    environment["MPLCONFIGDIR"] = str(cwd.parent / "matplotlib")
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = ("-m", "build", "--wheel", "--no-isolation", "--outdir", folder)
    run(sys.executable, *build, ROOT, cwd=folder)
    (file,) = folder.glob("visionmend-*.whl")
    return file


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; the libraries beside it are borrowed from our own."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    pip = ("-m", "pip", "--python", python, "install", "-qq", "--no-deps", "--no-index")
    run(sys.executable, *pip, wheel, cwd=folder.parent)
    # A folder named in a .pth is searched, but the .pth files in it are not read: an editable
    # installation of the checkout stays out of sight.
    (site,) = folder.glob("lib/python3*/site-packages")
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "borrowed.pth").write_text("\n".join(sorted(borrowed)) + "\n")
    return folder


def recipes() -> list[str]:
    found = (ROOT / "configs").rglob("*.yaml")
    return sorted(path.relative_to(ROOT / "configs").as_posix() for path in found)


def test_what_is_in_the_wheel(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"data", "vision"}
    assert recipes()
    for recipe in recipes():
        assert f"vision/configs/{recipe}" in names
    assert "vision/report/inspection.html.j2" in names
    assert not [name for name in names if "__pycache__" in name]


def test_it_is_the_wheel_that_runs(environment: Path, tmp_path: Path) -> None:
    show = "import data, vision; print(data.__file__); print(vision.__file__)"
    places = run(environment / "bin" / "python", "-c", show, cwd=tmp_path).splitlines()
    assert len(places) == 2
    assert all(Path(place).is_relative_to(environment) for place in places), places


def test_the_doctor_finds_it_well(environment: Path, tmp_path: Path) -> None:
    printed = run(environment / "bin" / "mend", "doctor", cwd=tmp_path)
    for recipe in recipes():
        assert recipe in printed
    assert not list(tmp_path.iterdir())  # nothing is left behind where it was called
