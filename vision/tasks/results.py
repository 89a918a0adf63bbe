"""What a run leaves behind: the finished net, and the table that `train.py test` prints."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, WeightAveraging
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from vision.backbones import Backbone

MODEL_FILE = "model.ckpt"
"""What `train.py fit` leaves in the run's folder."""


def drop_modules(task: LightningModule) -> None:
    """Out of the hyperparameters of a task built by hand: no checkpoint may carry an object."""
    for name in [n for n, value in task.hparams.items() if isinstance(value, nn.Module)]:
        del task.hparams[name]


def take_average(trainer: Trainer, task: LightningModule) -> None:
    """Put the moving average into the task, where it is not yet.

    Lightning does so after the last step; a training that is resumed with no step left has none.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightAveraging):
            callback.on_train_end(trainer, task)


def log_terms(task: LightningModule, terms: Mapping[str, Tensor], stage: str, count: int) -> None:
    """Terms of a loss over a batch of so many, as means of the epoch."""
    for name, value in terms.items():
        task.log(
            f"{stage}/{name}",
            value,
            prog_bar=name == "loss",
            on_epoch=True,
            on_step=False,
            sync_dist=True,
            batch_size=count,
        )


def one_device(trainer: Trainer, what: str) -> None:
    """ValueError with several processes, for `what` cannot be shared between them."""
    if trainer.world_size > 1:
        raise ValueError(f"{what} takes one device; set --trainer.devices 1")


def save_model(task: LightningModule, state: Mapping[str, Tensor], path: Path) -> None:
    """Write a finished net: `state`, and what `vision.load` needs to build the net again."""
    checkpoint: dict[str, Any] = {
        "state_dict": dict(state),
        "hyper_parameters": dict(task.hparams),
        "pytorch-lightning_version": lightning.__version__,
        "epoch": task.current_epoch,
        "global_step": task.global_step,
    }
    task.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)


def frozen_backbones(task: LightningModule) -> dict[str, dict[str, str]]:
    """What a checkpoint says of weights that stay out of it, by the names of their modules."""
    return {
        name: {"name": m.name, "source": m.source, "fingerprint": m.fingerprint}
        for name, m in task.named_modules()
        if isinstance(m, Backbone) and m.frozen  # the others are in the state dict
    }


def check_backbones(task: LightningModule, checkpoint: Mapping[str, Any]) -> None:
    """ValueError unless they are those that the checkpoint was trained with."""
    for name, wanted in checkpoint["backbones"].items():
        backbone = task.get_submodule(name)
        assert isinstance(backbone, Backbone)
        backbone.check(wanted)


def save_net(task: LightningModule, net: nn.Module, path: Path) -> None:
    """The same of a task whose net is all that is learned."""
    save_model(task, {f"net.{name}": value for name, value in net.state_dict().items()}, path)


class SaveNet(Callback):
    """After the last step: write `model.ckpt` into the run's folder."""

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.fast_dev_run or trainer.interrupted:  # type: ignore[attr-defined]
            return
        if not trainer.is_global_zero:
            return  # several processes hold the same net
        take_average(trainer, module)
        path = Path(trainer.default_root_dir) / MODEL_FILE
        module.cpu().save(path)  # type: ignore[operator]
        print(f"the net is {path}")


def save_results(results: dict[str, float], folder: Path, **words: str) -> None:
    """Print a table, and write it to `metrics.json` and `results.csv` in the run's folder.

    `metrics.csv` is the log of the training, in the same folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    everything: dict[str, float | str] = {**words, **results}
    (folder / "metrics.json").write_text(json.dumps(everything, indent=2) + "\n")
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(everything)
        writer.writerow(everything.values())
    table = Table("metric", "value")
    for name, value in everything.items():
        table.add_row(name, value if isinstance(value, str) else f"{value:.4f}")
    console = Console()
    console.print(table)
    console.print(f"saved in {folder / 'metrics.json'}")
