"""Training, calibrating, testing and inspecting, end to end on tiny generated parts."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from trained import backbone, class_spec, ear, fit, inspect, status, write_recipe

import vision
from data.images import write_png
from data.synthetic import make_bad, make_good, write_mvtec
from vision.anomaly import RIAD, FeatureNeighbours
from vision.cli import train
from vision.tasks import AnomalyTask
from vision.tasks.training import run_cli

ALL_METRICS = {
    "scoring",
    "image_auroc",
    "pixel_auroc",
    "au_pro_0.3",
    "au_pro_0.05",
    "alarms_at_0.01",
    "alarms_at_0.05",
    "alarms",
    "found",
    "ms_per_image",
}


def checkpoint(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def log_of(run: Path, column: str) -> list[float]:
    """The numbers of one column of the training's log, in order."""
    with (run / "metrics.csv").open() as file:
        return [float(row[column]) for row in csv.DictReader(file) if row[column]]


def unet_of(state: dict[str, Tensor]) -> Tensor:
    """All parameters of a U-Net as one vector, without the statistics of batch norm."""
    names = sorted(n for n in state if n.startswith("net.unet.") and "running" not in n)
    return torch.cat([state[n].flatten().float() for n in names])


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    printed = capsys.readouterr().err
    assert printed.startswith("error: "), printed
    assert printed.count("\n") == 1, printed
    return printed


def interrupt(*_: object) -> None:
    """Ctrl-C."""
    raise KeyboardInterrupt


# --- a run


def test_the_run_folder_holds_it_all(trained: Path, parts: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert {"config.yaml", "metrics.csv", "tensorboard", "last.ckpt", "model.ckpt"} <= names
    assert list((trained / "tensorboard").glob("events.out.tfevents.*"))
    assert str(parts) in (trained / "config.yaml").read_text()
    assert "seed_everything: 0" in (trained / "config.yaml").read_text()
    assert not (trained / "metrics.json").exists()  # that is the test's


def test_the_loss_falls(trained: Path) -> None:
    losses = log_of(trained, "train/loss")
    assert len(losses) == 10  # two steps an epoch
    assert losses[-1] < 0.6 * losses[0]
    assert len(log_of(trained, "val/loss")) == 10


def test_the_detector_is_the_moving_average(trained: Path) -> None:
    last, model = checkpoint(trained / "last.ckpt"), checkpoint(trained / "model.ckpt")
    assert last["global_step"] == model["global_step"] == 20
    average, raw = unet_of(last["state_dict"]), unet_of(last["current_model_state"])
    assert not torch.equal(average, raw)
    assert torch.equal(unet_of(model["state_dict"]), average)


def test_the_choice_of_scoring_is_stored(trained: Path) -> None:
    predictor = vision.load(trained / "model.ckpt")
    assert predictor.scorer.choice in ("published", "features", "fused")
    assert len(predictor.scorer.good) == 4  # the held-out pictures
    assert predictor.scorer.scoring == "best"


def test_testing_equals_inspecting(trained: Path, parts: Path, tmp_path: Path) -> None:
    model, run = trained / "model.ckpt", tmp_path / "test"
    before = {p: p.read_bytes() for p in trained.iterdir() if p.is_file()}
    call = ["test", "--config", trained / "config.yaml", "--ckpt_path", model]
    cli = run_cli([str(a) for a in [*call, "--trainer.default_root_dir", run]])
    tested = {
        record.image.relative_to(parts).as_posix(): score
        for record, (_, score) in zip(
            cli.datamodule.test_set.records, cli.model.test_scores, strict=True
        )
    }
    results = json.loads((run / "metrics.json").read_text())
    assert results.keys() == ALL_METRICS
    assert all(0 <= results[name] <= 1 for name in ALL_METRICS - {"scoring", "ms_per_image"})
    with (run / "results.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row == {name: str(value) for name, value in results.items()}
    out = tmp_path / "out"
    assert inspect(parts / "test", "-o", out, "--weights", model) == 0
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    inspected = {Path(r["input"]).relative_to(parts).as_posix(): r["score"] for r in rows}
    assert inspected == pytest.approx(tested, abs=1e-6, rel=0)
    assert len(inspected) == 8
    assert {r["verdict"] for r in rows} <= {"good", "defect"}
    assert before == {p: p.read_bytes() for p in trained.iterdir() if p.is_file()}


def test_testing_in_the_folder_of_the_run_replaces_nothing(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    before = {p: p.read_bytes() for p in run.iterdir() if p.is_file()}
    call = ("--config", run / "config.yaml", "--ckpt_path", run / "model.ckpt")
    for subcommand in ("test", "validate"):
        assert status(train, subcommand, *call, "--trainer.default_root_dir", run) == 0
    assert before == {path: path.read_bytes() for path in before}
    assert (run / "metrics.json").exists()


def test_validate(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["validate", "--config", trained / "config.yaml"]
    call += ["--ckpt_path", trained / "last.ckpt", "--trainer.default_root_dir", tmp_path]
    cli = run_cli([str(a) for a in call])
    assert float(cli.trainer.callback_metrics["val/loss"]) == pytest.approx(
        log_of(trained, "val/loss")[-1], rel=1e-4
    )
    assert "val/loss" in capsys.readouterr().out


def test_half_precision_in_training_is_none_in_testing(trained: Path, tmp_path: Path) -> None:
    scores = []
    for precision in ("32-true", "bf16-mixed"):
        call = ["test", "--config", trained / "config.yaml", "--trainer.precision", precision]
        call += ["--ckpt_path", trained / "model.ckpt", "--trainer.default_root_dir", tmp_path]
        scores.append(run_cli([str(a) for a in call]).model.test_scores)
    assert scores[0] == scores[1]


# --- runs beside each other


@pytest.mark.slow
def test_seeds_and_run_folders(recipe: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    few = ("--trainer.max_steps", 2, "--trainer.precision", "bf16-mixed", "--data.augment", "d4")
    assert fit(recipe, *few, run=runs) == 0
    first = {p: p.read_bytes() for p in (runs / "tiny" / "001").iterdir() if p.is_file()}
    assert fit(recipe, *few, run=runs) == 0
    assert fit(recipe, *few, "--seed_everything", 1, run=runs) == 0
    assert sorted(p.name for p in (runs / "tiny").iterdir()) == ["001", "002", "003"]
    assert first == {path: path.read_bytes() for path in first}
    models = [checkpoint(runs / "tiny" / n / "model.ckpt") for n in ("001", "002", "003")]
    one, same, other = (model["state_dict"] for model in models)
    assert one.keys() == same.keys() == other.keys()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(unet_of(one), unet_of(other))


def test_a_folder_with_a_run_is_refused(
    trained: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(trained.iterdir())
    assert fit(recipe, "--trainer.default_root_dir", trained, run=tmp_path) == 2
    assert f"{trained}: holds a run already" in refusal(capsys)
    assert sorted(trained.iterdir()) == before


@pytest.mark.slow
def test_a_mistyped_folder_of_data_leaves_no_run(recipe: Path, tmp_path: Path) -> None:
    assert fit(recipe, "--data.root", tmp_path / "nowhere", run=tmp_path / "runs") == 2
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]


def test_resume(
    trained: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--trainer.max_steps", 24)  # longer than it was begun for
    assert fit(recipe, *more, "--ckpt_path", trained / "last.ckpt", run=tmp_path) == 0
    run = tmp_path / "tiny" / "001"
    last = checkpoint(run / "last.ckpt")
    assert last["global_step"] == 24
    assert last["epoch"] == 11
    assert min(log_of(run, "step")) > 20  # it went on, rather than beginning again
    before, after = log_of(trained, "train/loss"), log_of(run, "train/loss")
    assert after[0] < (before[0] + before[-1]) / 2  # from the weights of before
    assert last["lr_schedulers"][0]["total_steps"] == 25
    assert vision.load(run / "model.ckpt").scorer.calibrated
    capsys.readouterr()
    assert fit(recipe, "--ckpt_path", trained / "model.ckpt", run=tmp_path) == 2
    assert "nothing can be trained on; resume from last.ckpt" in refusal(capsys)


def test_interrupted_while_calibrating(
    trained: Path,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(AnomalyTask, "_painted_scores", interrupt)
        assert fit(recipe, run=tmp_path) == 130
    last = tmp_path / "tiny" / "001" / "last.ckpt"
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"go on with --ckpt_path {last}")
    assert fit(recipe, "--ckpt_path", last, run=tmp_path) == 0
    found = checkpoint(tmp_path / "tiny" / "002" / "model.ckpt")["state_dict"]
    wanted = checkpoint(trained / "model.ckpt")["state_dict"]
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.slow
def test_interrupted_while_training(
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    step = AnomalyTask.training_step

    def stop(self: AnomalyTask, batch: Any, batch_idx: int) -> Any:
        if self.global_step == 1:  # before the first validation
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    monkeypatch.setattr(AnomalyTask, "training_step", stop)
    assert fit(recipe, run=tmp_path) == 130
    last = tmp_path / "tiny" / "001" / "last.ckpt"
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"go on with --ckpt_path {last}")
    assert checkpoint(last)["global_step"] == 1


@pytest.mark.slow
def test_interrupted_while_validating(
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Net and moving average have changed places then, so nothing may be saved."""
    monkeypatch.setattr(AnomalyTask, "validation_step", interrupt)
    assert fit(recipe, run=tmp_path) == 130
    assert not list(tmp_path.rglob("*.ckpt"))
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted; start again"


@pytest.mark.parametrize("subcommand", ["fit", "test"])
def test_a_detector_takes_one_device(
    subcommand: str, trained: Path, recipe: Path, tmp_path: Path
) -> None:
    """In a process of its own, since two devices on a CPU start a second process."""
    call = [subcommand, "--config", recipe, "--trainer.devices", 2, "--trainer.accelerator", "cpu"]
    call += ["--run", tmp_path / "runs"]
    more = ["--ckpt_path", trained / "model.ckpt", "--trainer.default_root_dir", tmp_path / "test"]
    call += more if subcommand == "test" else []
    command = [sys.executable, "-m", "vision.cli", "train", *map(str, call)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "a detector takes one device; set --trainer.devices 1" in done.stderr
    assert not list((tmp_path / "runs").rglob("*.*"))


def test_the_net_of_another_recipe_is_refused(
    trained: Path, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_recipe(tmp_path / "riad.yaml", parts, class_spec("vision.anomaly.RIAD", size=64))
    call = ("--ckpt_path", trained / "model.ckpt", "--trainer.default_root_dir", tmp_path)
    assert status(train, "test", "-c", other, *call) == 2
    told = "is of vision.anomaly.EAR, but the recipe of vision.anomaly.RIAD; take the recipe"
    assert told in refusal(capsys)


def test_with_good_pictures_alone_it_tells_the_alarms(trained: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    write_mvtec(tmp_path / "made", train=8, good=4, bad=1, size=64)
    shutil.copytree(tmp_path / "made" / "train" / "good", parts / "good")
    shutil.copytree(tmp_path / "made" / "test" / "good", parts / "test_good")
    call = ("--config", trained / "config.yaml", "--ckpt_path", trained / "model.ckpt")
    more = ("--data.root", parts, "--trainer.default_root_dir", tmp_path / "run")
    assert status(train, "test", *call, *more) == 0
    results = json.loads((tmp_path / "run" / "metrics.json").read_text())
    wanted = {"scoring", "alarms_at_0.01", "alarms_at_0.05", "alarms", "ms_per_image"}
    assert results.keys() == wanted


@pytest.mark.slow
def test_early_stopping_by_recipe(parts: Path, tmp_path: Path) -> None:
    recipe = write_recipe(
        tmp_path / "early.yaml",
        parts,
        class_spec("vision.anomaly.RIAD", unet="tiny", size=64, sets_per_step=1),
        early_stopping={"patience": 2, "min_delta": 100.0},
    )
    assert fit(recipe, run=tmp_path / "runs") == 0
    run = tmp_path / "runs" / "early" / "001"
    assert len(log_of(run, "val/loss")) == 3  # the first one, and two that are no better
    assert checkpoint(run / "model.ckpt")["global_step"] == 6
    predictor = vision.load(run / "model.ckpt")
    assert isinstance(predictor.net, RIAD)
    assert predictor.scorer.choice == "published"


@pytest.mark.slow
def test_the_published_scoring(parts: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "published.yaml", parts)
    flags = ("--model.scorer.scoring", "published", "--model.scorer.false_alarms", 0.2)
    # One step is half an epoch: there is no validation for early stopping to look at.
    assert fit(recipe, *flags, "--trainer.max_steps", 1, run=tmp_path / "runs") == 0
    scorer = vision.load(tmp_path / "runs" / "published" / "001" / "model.ckpt").scorer
    assert scorer.choice == "published"
    assert scorer.false_alarms == 0.2
    assert scorer.good[3] < scorer.threshold < scorer.good[3] + 1e-5  # ⌈5 · 0.8⌉ = 4 of 4


@pytest.mark.slow
def test_a_scoring_that_the_net_cannot_give(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", parts, ear(features="none"))
    flags = ("--model.scorer.scoring", "fused", "--data.root", "/nonexistent")
    assert fit(recipe, *flags, run=tmp_path) == 2
    assert "scoring=fused: needs the maps ('structure', 'features')" in refusal(capsys)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("--trainer.max_epochs", 0), ()])
def test_neighbours_need_no_training(
    flags: tuple[object, ...], parts: Path, tmp_path: Path
) -> None:
    net = class_spec("vision.anomaly.FeatureNeighbours", backbone=backbone(), grids=[4], size=64)
    recipe = write_recipe(tmp_path / "nn.yaml", parts, net)
    assert fit(recipe, *flags, run=tmp_path / "runs") == 0
    run = tmp_path / "runs" / "nn" / "001"
    predictor = vision.load(run / "model.ckpt")
    assert isinstance(predictor.net, FeatureNeighbours)
    assert len(predictor.net.memories[0].bank) == 6 * 3  # pictures × attended tokens
    assert predictor.scorer.choice == "features"
    call = ("--config", recipe, "--ckpt_path", run / "model.ckpt")
    assert status(train, "test", *call, "--trainer.default_root_dir", run) == 0
    assert json.loads((run / "metrics.json").read_text()).keys() == ALL_METRICS


def test_other_weights_of_the_backbone_are_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = checkpoint(trained / "model.ckpt")
    changed["backbones"]["net.backbone"]["fingerprint"] = "0" * 16
    torch.save(changed, tmp_path / "model.ckpt")
    call = ("--config", trained / "config.yaml", "--ckpt_path", tmp_path / "model.ckpt")
    assert status(train, "test", *call, "--trainer.default_root_dir", tmp_path) == 2
    assert "was trained on other weights of vit_tiny_patch16_224" in refusal(capsys)


# --- other data


def plain_folder(root: Path, good: int = 8, test_good: int = 0, bad: int = 0) -> Path:
    """Pictures in the layout of `data.folder.Folder`, without masks."""
    files = {f"good/{i}.png": make_good("flange", 0, "train", i, 64) for i in range(good)}
    files |= {f"test_good/{i}.png": make_good("flange", 0, "good", i, 64) for i in range(test_good)}
    files |= {f"bad/dent/{i}.png": make_bad("flange", 0, i, 64)[0] for i in range(bad)}
    for name, pixels in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_png(root / name, pixels)
    return root


def test_unmarked_defects_give_image_metrics_only(trained: Path, tmp_path: Path) -> None:
    # The first batch holds good pictures only, whose masks are known: they have no defect.
    root = plain_folder(tmp_path / "plain", test_good=4, bad=3)
    call = ("--config", trained / "config.yaml", "--ckpt_path", trained / "model.ckpt")
    here = ("--data.root", root, "--trainer.default_root_dir", tmp_path / "run")
    assert status(train, "test", *call, *here) == 0
    results = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert results.keys() == ALL_METRICS - {"pixel_auroc", "au_pro_0.3", "au_pro_0.05"}


def test_good_pictures_alone(
    trained: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = plain_folder(tmp_path / "plain")
    here = ("--data.root", root, "--trainer.max_steps", 1)
    assert fit(recipe, *here, run=tmp_path / "runs") == 0
    model = tmp_path / "runs" / "tiny" / "001" / "model.ckpt"
    assert vision.load(model).scorer.calibrated
    capsys.readouterr()
    call = ("test", "--config", recipe, "--ckpt_path", model, "--run", tmp_path / "runs")
    assert status(train, *call, "--data.root", root) == 2
    assert f"{root}: nothing to test on; put bad pictures in bad/<kind>/" in refusal(capsys)


@pytest.mark.slow
def test_too_few_pictures(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = plain_folder(tmp_path / "plain", good=4)
    assert fit(recipe, "--data.root", root, run=tmp_path / "runs") == 2
    assert f"{root}: 4 good pictures are too few" in refusal(capsys)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_training_picture(
    workers: int, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = plain_folder(tmp_path / "plain")
    for path in (root / "good").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    flags = ("--data.root", root, "--data.workers", workers)
    assert fit(recipe, *flags, run=tmp_path / "runs") == 2
    line = refusal(capsys)
    assert line.startswith(f"error: {root / 'good'}/")
    assert "damaged" in line
