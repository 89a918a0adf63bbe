"""`fit | validate | test`: LightningCLI with our defaults and a folder of its own for each run."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
)
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from vision.tasks.anomaly import AnomalyTask
from vision.tasks.config_errors import Parser
from vision.tasks.datamodule import AnomalyData

# What Lightning says on every run and no reader of ours can act on.
NOISE = (
    ".*args parameter is intended to run from within Python",
    ".*does not have many workers",
    ".*exists and is not empty",
    ".*is smaller than the logging interval",
    ".*isinstance\\(treespec, LeafSpec",
)


class CLI(LightningCLI):
    """LightningCLI plus EMA, early stopping and checkpoints by configuration."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Without `predict`: that is `infer.py`, which needs no recipe."""
        every = LightningCLI.subcommands()
        return {name: every[name] for name in ("fit", "validate", "test")}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--run", type=str, default="runs", help="folder below which runs go")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.add_lightning_class_args(EMAWeightAveraging, "ema")
        parser.set_defaults(
            {
                "checkpoint.monitor": "val/loss",
                "checkpoint.save_last": True,
                "early_stopping.monitor": "val/loss",
                "early_stopping.patience": 1_000_000,  # off unless a recipe asks for it
                # Of the last ten steps or so, which suits runs of a few hundred; long recipes set
                # more. Batch norm's statistics are averages already: averaged again they lag behind
                # their weights, and a short run ends with a net that fails in evaluation mode.
                "ema.decay": 0.9,
                "ema.use_buffers": False,
            }
        )
        parser.link_arguments("model", "data.size", compute_fn=_input_size, apply_on="instantiate")
        assert isinstance(parser, Parser)
        parser.note_options()

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        if config.trainer.default_root_dir is None:
            config.trainer.default_root_dir = str(new_run(Path(config.run), _recipe(config)))
        folder = Path(config.trainer.default_root_dir)
        # One folder for everything, so that both loggers and the checkpoints stand side by side.
        self.trainer_defaults["logger"] = [
            CSVLogger(folder, name="", version=""),
            TensorBoardLogger(folder, name="", version="tensorboard"),
        ]
        config.checkpoint.dirpath = config.checkpoint.dirpath or str(folder)
        torch.use_deterministic_algorithms(True, warn_only=True)


class Lines(Callback):
    """A plain line per epoch where stderr is no terminal."""

    def on_train_epoch_end(self, trainer: Trainer, _: Any) -> None:
        numbers = {k: float(v) for k, v in trainer.callback_metrics.items() if k.endswith("loss")}
        told = ", ".join(f"{k} {v:.4f}" for k, v in sorted(numbers.items()))
        step, last = trainer.global_step, int(trainer.estimated_stepping_batches)
        print(f"step {step}/{last}, epoch {trainer.current_epoch + 1}: {told}", file=sys.stderr)


def run_cli(argv: Sequence[str]) -> CLI:
    """Run a subcommand; a wrong configuration ends with status 2 before any data is read."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    terminal = sys.stderr.isatty()
    progress: list[Callback] = [RichProgressBar()] if terminal else [Lines()]
    return CLI(
        AnomalyTask,
        AnomalyData,
        args=list(argv),
        parser_class=Parser,
        seed_everything_default=0,
        save_config_callback=SaveConfigCallback,
        trainer_defaults={
            "callbacks": [*progress, LearningRateMonitor("step")],
            "enable_progress_bar": terminal,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
        },
    )


def new_run(root: Path, recipe: str) -> Path:
    """Make and return the first `root/recipe/NNN` that does not exist; never an existing one."""
    number = 1
    while True:
        folder = root / recipe / f"{number:03d}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder


def _recipe(config: Any) -> str:
    """The name of the last recipe given, for the run's folder."""
    return Path(str(config.config[-1])).stem if config.get("config") else "default"


def _input_size(model: AnomalyTask) -> int:
    return model.net.input_size
