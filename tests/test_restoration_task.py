"""Training nets that restore: what is learned, measured, saved, begun with, and refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from nets import picture
from trained import class_spec, fit, status

import vision
from vision.cli import infer, train
from vision.layers.state import fill_from
from vision.losses import L1, MSE
from vision.restoration import HAT, Discriminator, DWFormer
from vision.restoration.hat import Dims
from vision.tasks.restoration import AdversarialTask, RestorationTask
from vision.tasks.training import task_of

DIMS = {"embed_dim": 12, "depths": [2], "num_heads": 2, "squeeze": 3, "window": 8, "features": 8}
TINY_DWFORMER = {"dims": [4, 8, 8, 8, 4], "depths": [1] * 5}


def hat(scale: int = 2) -> dict[str, Any]:
    return class_spec("vision.restoration.HAT", dims=DIMS, scale=scale)


def bicubic(scale: int = 2) -> dict[str, Any]:
    return class_spec("data.degrade.Bicubic", scale=scale)


def dwformer() -> dict[str, Any]:
    return class_spec("vision.restoration.DWFormer", **TINY_DWFORMER)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth pictures of 64×48 in train, val and test."""
    root = tmp_path_factory.mktemp("clean")
    draw = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2), ("test", 2)):
        (root / split).mkdir()
        for number in range(count):
            small = draw.integers(0, 256, (7, 9, 3), np.uint8)
            large = cv2.resize(small, (64, 48), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(root / split / f"{number}.png"), large)
    return root


def write(path: Path, root: Path, net: Any, degradation: Any, **more: Any) -> Path:
    """A recipe of 4 steps; `more` goes into its sections."""
    dataset = class_spec("data.paired.Degraded", degradation=degradation)
    content: dict[str, Any] = {
        "task": "restore",
        "model": {"net": net, "lr": 2e-3},
        "data": {"root": str(root), "dataset": dataset, "patch": 16, "batch_size": 2},
        "trainer": {"max_steps": 4, "accelerator": "cpu"},
    }
    for section, values in more.items():
        if isinstance(values, dict):
            content[section] = {**content.get(section, {}), **values}
        else:
            content[section] = values
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.slow
def test_a_display_is_learned_away_measured_and_restored(clean: Path, tmp_path: Path) -> None:
    display = class_spec("data.degrade.UnderDisplay", display="poled")
    recipe = write(
        tmp_path / "display.yaml",
        clean,
        dwformer(),
        display,
        data={"repeat": 10},
        trainer={"max_steps": 60},
        model={"lr": 1e-2},
    )
    assert fit(recipe, run=tmp_path / "runs") == 0
    run = tmp_path / "runs" / "display" / "001"
    log = (run / "metrics.csv").read_text()
    assert "val/psnr" in log
    assert "val/ssim" in log
    assert list((run / "tensorboard").iterdir())
    weights = run / "model.ckpt"
    assert status(train, "test", "--config", recipe, "--ckpt_path", weights) == 0
    found = json.loads((run / "metrics.json").read_text())
    assert found["psnr"] > found["psnr_of_input"] + 3
    assert found["evaluated"] == "rgb"
    assert (
        status(infer, "restore", clean / "test", "-o", tmp_path / "out", "--weights", weights) == 0
    )
    assert cv2.imread(str(tmp_path / "out" / "0.png")).shape == (48, 64, 3)


@pytest.mark.slow
def test_super_resolution_is_measured_on_luma_against_bicubic(clean: Path, tmp_path: Path) -> None:
    recipe = write(tmp_path / "sr.yaml", clean, hat(), bicubic())
    assert fit(recipe, run=tmp_path / "runs") == 0
    run = tmp_path / "runs" / "sr" / "001"
    assert status(train, "test", "--config", recipe, "--ckpt_path", run / "model.ckpt") == 0
    found = json.loads((run / "metrics.json").read_text())
    assert found["evaluated"] == "y"
    assert found["psnr_of_input"] > 25  # smooth pictures
    predictor = vision.load(run / "model.ckpt")
    assert predictor(np.zeros((5, 7, 3), np.uint8)).pixels.shape == (10, 14, 3)


@pytest.mark.slow
def test_two_trainings_are_the_same_to_the_last_bit(clean: Path, tmp_path: Path) -> None:
    recipe = write(tmp_path / "sr.yaml", clean, hat(), bicubic())
    found = []
    for name in ("001", "002"):
        assert fit(recipe, run=tmp_path / "runs") == 0
        path = tmp_path / "runs" / "sr" / name / "model.ckpt"
        found.append(torch.load(path, weights_only=True)["state_dict"])
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


@pytest.mark.slow
def test_training_goes_on(clean: Path, tmp_path: Path) -> None:
    recipe = write(tmp_path / "sr.yaml", clean, hat(), bicubic(), model={"halve_at": [2, 3]})
    assert fit(recipe, run=tmp_path / "runs") == 0
    last = tmp_path / "runs" / "sr" / "001" / "last.ckpt"
    flags = ("--ckpt_path", last, "--trainer.max_steps", 6)
    assert fit(recipe, *flags, run=tmp_path / "runs") == 0
    model = torch.load(tmp_path / "runs" / "sr" / "002" / "model.ckpt", weights_only=True)
    assert model["global_step"] == 6


@pytest.mark.slow
def test_x4_begins_with_x2(clean: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    two, four = (HAT(scale=scale, dims=Dims(**DIMS)) for scale in (2, 4))
    path = tmp_path / "HAT_SRx2.pth"
    torch.save({"params_ema": two.state_dict()}, path)
    before = four.state_dict()["upsample.2.weight"].clone()
    fill_from(four, path, anew=("upsample.",))
    state = four.state_dict()
    assert torch.equal(state["conv_first.weight"], two.state_dict()["conv_first.weight"])
    assert torch.equal(state["upsample.0.weight"], two.state_dict()["upsample.0.weight"])
    assert torch.equal(state["upsample.2.weight"], before)
    recipe = write(tmp_path / "sr.yaml", clean, hat(4), bicubic(4), data={"patch": 8})
    assert fit(recipe, "--model.start_from", path, run=tmp_path / "runs") == 0
    path.unlink()  # what it began with is needed no more
    last = tmp_path / "runs" / "sr" / "001" / "last.ckpt"
    flags = ("--ckpt_path", last, "--trainer.max_steps", 6)
    assert fit(recipe, *flags, run=tmp_path / "runs") == 0
    ours = tmp_path / "runs" / "sr" / "001" / "model.ckpt"
    fill_from(HAT(scale=3, dims=Dims(**DIMS)), ours, anew=("upsample.",))  # one of ours serves too


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"no checkpoint", "not a checkpoint, or a truncated one"),
        (
            {"params": {"conv.weight": torch.zeros(2)}},
            r"is not of this HAT \(missing: conv_after_body",
        ),
    ],
)
def test_what_cannot_be_begun_with(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "other.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        RestorationTask(HAT(dims=Dims(**DIMS)), start_from=str(path))


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize("loss", [None, MSE()])
def test_what_a_step_makes_smaller_is_the_loss_of_the_result(loss: Any) -> None:
    torch.manual_seed(0)
    net, batch = HAT(dims=Dims(**DIMS), scale=2), pair_of(8, 2)
    found = RestorationTask(net, loss).training_step(batch, 0)
    torch.testing.assert_close(found, (loss or L1())(net(batch["input"]), batch["target"]))
    assert found > 0


def pair_of(side: int, scale: int = 1) -> dict[str, Any]:
    return {"input": picture(side, side), "target": picture(side * scale, side * scale) * 0.5}


def test_the_discriminator_moves_the_net_by_its_weight() -> None:
    torch.manual_seed(0)
    net, judge, batch = DWFormer(**TINY_DWFORMER), Discriminator(width=8), pair_of(16)
    gradients = []
    for weight in (0.0, 0.0, 1.0):
        task = AdversarialTask(net, judge.eval(), weight=weight)
        net.zero_grad()
        task._fooling_loss(batch, task.restore(batch)).backward()
        gradients.append(net.out.weight.grad.clone())
    assert torch.equal(gradients[0], gradients[1])
    assert (gradients[0] - gradients[2]).abs().max() > 1e-4
    assert all(p.grad is None for p in judge.parameters())  # which does not learn from it


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"halve_at": [1, 3]}, [1, 0.5, 0.5, 0.25, 0.25]),
        ({"halve_at": []}, [1, 1, 1, 1, 1]),
        ({"halve_at": [3], "warm_up": 0.5}, [0.5, 1, 1, 0.5, 0.5]),
        ({"min_lr": 0.0}, [1, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4, 0]),
        ({"min_lr": 2e-3}, [1, 0.2 + 0.2 * (2 + 2**0.5), 0.6, 0.2 + 0.2 * (2 - 2**0.5), 0.2]),
        ({"min_lr": 0.0, "warm_up": 0.75}, [1 / 3, (2 + 2**0.5) / 6, 0.5, (2 - 2**0.5) / 4, 0]),
    ],
)
def test_learning_rates_of_four_steps_and_one_more(
    options: dict[str, Any], wanted: list[float]
) -> None:
    task = RestorationTask(DWFormer(**TINY_DWFORMER), lr=1e-2, **options)
    assert [task._factor(step, 4) for step in range(5)] == pytest.approx(wanted)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 3])
def test_the_discriminator_takes_more_steps(clean: Path, tmp_path: Path, steps: int) -> None:
    discriminator = class_spec("vision.restoration.Discriminator", width=8)
    recipe = write(
        tmp_path / "gan.yaml",
        clean,
        class_spec("vision.restoration.MPGNet", blocks=1),
        class_spec("data.degrade.UnderDisplay", display="poled"),
        task="adversarial",
        model={"discriminator": discriminator, "discriminator_steps": steps},
        data={"swap": True},
        trainer={"max_steps": -1, "max_epochs": 2},
    )
    assert fit(recipe, run=tmp_path / "runs") == 0
    last = torch.load(tmp_path / "runs" / "gan" / "001" / "last.ckpt", weights_only=True)
    done = [int(next(iter(o["state"].values()))["step"]) for o in last["optimizer_states"]]
    assert done == [6 if steps == 1 else 2, 6]  # of three batches an epoch
    weights = tmp_path / "runs" / "gan" / "001" / "model.ckpt"
    assert status(train, "test", "--config", recipe, "--ckpt_path", weights) == 0
    rates = [s["_last_lr"][0] for s in last["lr_schedulers"]]
    assert rates == pytest.approx([1e-6, 1e-6 * 1e-3 / 2e-3], rel=1)  # both came to the end


@pytest.mark.slow
def test_a_net_within_regions_gets_superpixels(clean: Path, tmp_path: Path) -> None:
    net = class_spec("vision.restoration.RAT", width=8, groups=1, blocks=[1])
    noise = class_spec("data.degrade.GaussianNoise", sigma=25)
    recipe = write(
        tmp_path / "rat.yaml",
        clean,
        net,
        noise,
        model={"loss": class_spec("vision.losses.FocalRegion")},
    )
    dataset = yaml.safe_load(recipe.read_text())
    dataset["data"]["dataset"]["init_args"]["grey"] = True
    recipe.write_text(yaml.safe_dump(dataset))
    assert fit(recipe, run=tmp_path / "runs") == 0
    predictor = vision.load(tmp_path / "runs" / "rat" / "001" / "model.ckpt")
    image = np.random.default_rng(0).integers(0, 256, (40, 30), np.uint8)
    regions = np.arange(40)[:, None] // 20 + np.zeros((40, 30), int)
    assert predictor(image).pixels.shape == (40, 30)
    assert predictor(image, regions).pixels.shape == (40, 30)
    with pytest.raises(ValueError, match=r"a region map of \(30, 40\) for a picture of \(40, 30\)"):
        predictor(image, regions.T)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task", "restor"], "task restor: choose one of inspect, restore, adversarial"),
        (["--data.patch", "500"], "smaller than a patch of 500"),
        (["--data.swap", "true"], "swap: what a net that enlarges"),
        (["--data.repeat", "0"], "repeat=0: give 1 or more"),
        (["--model.net.init_args.channels", "1"], "HAT takes 1 channel(s), the data has 3; set"),
        (["--model.net.init_args.scale", "3"], "scale 3 is not that of Bicubic, 2"),
        (["--model.lrr", "3"], "lrr"),
        (["--model.net.init_args.windo", "3"], "windo"),
        (["--data.root", "nowhere"], "nowhere does not exist"),
        (["--trainer.max_steps", "-1", "--trainer.max_epochs", "-1"], "training without an end"),
    ],
)
def test_wrong_recipes(
    clean: Path, tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write(tmp_path / "sr.yaml", clean, hat(), bicubic())
    assert fit(recipe, *flags, run=tmp_path / "runs") == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("error: ")
    assert message in told


def test_a_checkpoint_of_another_task(clean: Path, trained: Path, tmp_path: Path) -> None:
    out, weights = tmp_path / "out", trained / "model.ckpt"
    assert status(infer, "restore", clean / "test", "-o", out, "--weights", weights) == 2


def test_what_a_recipe_is_for(tmp_path: Path) -> None:
    recipe = tmp_path / "a.yaml"
    recipe.write_text("task: restore\n")
    assert task_of(["fit", "--config", str(recipe)]) == "restore"
    assert task_of(["fit", f"--config={recipe}", "--task", "adversarial"]) == "adversarial"
    assert task_of(["fit"]) == "inspect"
    with pytest.raises(ValueError, match="task odd: choose one of inspect, restore"):
        task_of(["fit", "--task=odd"])
    recipe.write_text("task: [")
    assert task_of(["fit", "--config", str(recipe)]) == "inspect"


@pytest.mark.slow
def test_processes_of_a_training_share_its_folder(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("VISIONMEND_RUN_FOLDER", raising=False)
    recipe = write(tmp_path / "sr.yaml", clean, hat(), bicubic())
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert fit(recipe, run=tmp_path / "runs") == 2
    assert "no folder that they share; give --trainer.default_root_dir" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes(clean: Path, tmp_path: Path) -> None:
    recipe = write(tmp_path / "sr.yaml", clean, hat(), bicubic())
    call = [sys.executable, "train.py", "fit", "--config", recipe, "--run", tmp_path / "runs"]
    call += ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs" / "sr").iterdir()
    vision.load(run / "model.ckpt")


@pytest.mark.slow
def test_regions_of_a_net_that_enlarges(clean: Path, tmp_path: Path) -> None:
    net = class_spec("vision.restoration.RAT", scale=2, channels=3, width=8, groups=1, blocks=[1])
    loss = class_spec("vision.losses.FocalRegion")
    recipe = write(tmp_path / "rat.yaml", clean, net, bicubic(), model={"loss": loss})
    assert fit(recipe, run=tmp_path / "runs") == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"discriminator": class_spec("vision.restoration.Discriminator")}, "conditional: a net"),
        (
            {
                "discriminator": class_spec("vision.restoration.Discriminator", width=8),
                "conditional": False,
            },
            "must take 3 channels; set channels: 3",
        ),
    ],
)
def test_a_discriminator_that_does_not_fit(
    clean: Path,
    tmp_path: Path,
    options: dict[str, Any],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = write(
        tmp_path / "gan.yaml", clean, hat(), bicubic(), task="adversarial", model=options
    )
    assert fit(recipe, run=tmp_path / "runs") == 2
    assert message in capsys.readouterr().err
