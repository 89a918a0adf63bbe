"""`fit | validate | test`: LightningCLI with our defaults and a folder of its own for each run."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import yaml
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
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

import vision
from vision.layers.state import read_checkpoint
from vision.tasks.anomaly import AnomalyTask
from vision.tasks.config_errors import Parser, explain
from vision.tasks.datamodule import AnomalyData
from vision.tasks.mesh import MeshTask
from vision.tasks.pairs import RestorationData
from vision.tasks.people import PeopleData
from vision.tasks.restoration import AdversarialTask, RestorationTask

logger = logging.getLogger(__name__)

# What a recipe's `task` names, and what its data is told by its net.
TASKS: dict[str, tuple[type, type]] = {
    "inspect": (AnomalyTask, AnomalyData),
    "restore": (RestorationTask, RestorationData),
    "adversarial": (AdversarialTask, RestorationData),
    "mesh": (MeshTask, PeopleData),
}
Task = Literal["inspect", "restore", "adversarial", "mesh"]
LINKS: dict[type, dict[str, Callable[[Any], Any]]] = {
    AnomalyData: {"data.size": lambda model: model.net.input_size},
    RestorationData: {
        "data.scale": lambda model: model.spec.scale,
        "data.regions": lambda model: model.spec.regions,
    },
    PeopleData: {"data.size": lambda model: model.spec.sees},
}

RECIPE = ("--config", "-c")

RUN_FOLDER = "VISIONMEND_RUN_FOLDER"  # in the environment of the processes that share a training

# What Lightning says on every run and no reader of ours can act on.
NOISE = (
    ".*args parameter is intended to run from within Python",
    ".*does not have many workers",
    ".*exists and is not empty",
    ".*is smaller than the logging interval",
    ".*isinstance\\(treespec, LeafSpec",
    ".*WeightAveraging callback, but loading",
    ".*The dirpath has changed",
    ".*this fit will run with no optimizer",
    ".*is an instance of `nn.Module` and is already saved",
)


class CLI(LightningCLI):
    """LightningCLI plus EMA, early stopping and checkpoints by configuration."""

    made: ClassVar[Path | None] = None
    """The folder that the last call made for its run."""
    last: ClassVar[Path | None] = None
    """Where that call's newest checkpoint goes."""
    begun: ClassVar[bool] = False
    """Whether a step was taken."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Without `predict`: that is `infer.py`, which needs no recipe."""
        every = LightningCLI.subcommands()
        return {name: every[name] for name in ("fit", "validate", "test")}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--task", type=Task, default="inspect", help="what is trained")
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
                # After a validation, not after an epoch: the last steps may be no whole epoch.
                "early_stopping.check_on_train_epoch_end": False,
                # Of the last ten steps or so, which suits runs of a few hundred; long recipes set
                # more. Batch norm's statistics are averages already: averaged again they lag behind
                # their weights, and a short run ends with a net that fails in evaluation mode.
                "ema.decay": 0.9,
                "ema.use_buffers": False,
            }
        )
        assert isinstance(self.datamodule_class, type)
        for key, told in LINKS[self.datamodule_class].items():
            parser.link_arguments("model", key, compute_fn=told, apply_on="instantiate")
        assert isinstance(parser, Parser)
        parser.note_options()

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        if self.subcommand == "test" and not config.ckpt_path:
            raise ValueError(
                "test: there is nothing to test; give --ckpt_path …/model.ckpt of a run"
            )
        precision = str(config.trainer.precision)
        if precision.endswith("-true") and precision != "32-true":
            raise ValueError(
                f"trainer.precision {precision}: features and maps are float32; use 32-true, or"
                " bf16-mixed on a GPU"
            )
        if config.trainer.default_root_dir is None:
            tested = config.ckpt_path if self.subcommand != "fit" else None
            run = Path(tested).parent if tested else _run_folder(Path(config.run), _recipe(config))
            config.trainer.default_root_dir = str(run)
            CLI.made = None if tested else run
        folder = Path(config.trainer.default_root_dir)
        learning = self.subcommand == "fit"
        if learning and (folder / "config.yaml").exists() and not _is_further_process():
            raise ValueError(
                f"{folder}: holds a run already; name another --trainer.default_root_dir, or leave"
                " it out for a new folder below runs/"
            )
        # Testing or validating in the folder of a run replaces nothing that the training wrote.
        name = "config.yaml" if learning else f"{self.subcommand}.yaml"
        self.save_config_kwargs = {"config_filename": name, "overwrite": not learning}
        config.checkpoint.dirpath = config.checkpoint.dirpath or str(folder)
        CLI.last = Path(config.checkpoint.dirpath) / "last.ckpt"
        if self.subcommand == "test":
            config.verbose = False  # the task prints a table of its own
        torch.use_deterministic_algorithms(True, warn_only=True)

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except ValueError as error:
            raise ValueError(explain(str(error), ())) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config, fit = self.config[self.subcommand].trainer, self.subcommand == "fit"
        if config.logger is None:
            folder = config.default_root_dir
            # One folder for everything, so that both logs and the checkpoints stand side by side.
            kwargs["logger"] = fit and [
                CSVLogger(folder, name="", version=""),
                TensorBoardLogger(folder, name="", version="tensorboard"),
            ]
        if fit and config.logger is not False:
            self.trainer_defaults["callbacks"].append(LearningRateMonitor("step"))
        return super().instantiate_trainer(**kwargs)

    def _parse_ckpt_path(self) -> None:
        """LightningCLI's, after a look at the file: it would end in a traceback later."""
        path = self.config[self.config.subcommand].get("ckpt_path")
        if not path:
            return
        check_checkpoint(Path(path), resume=self.config.subcommand == "fit")
        asked = dict(self.config[self.config.subcommand].model.items())
        super()._parse_ckpt_path()
        found = dict(self.config[self.config.subcommand].model.items())
        other = [key for key in asked if key in found and asked[key] != found[key]]
        if "net.class_path" in other:
            raise ValueError(
                f"--ckpt_path {path}: is of {found['net.class_path']}, but the recipe of"
                f" {asked['net.class_path']}; take the recipe it was trained with"
            )
        if other:
            logger.info("as the checkpoint has it, not the recipe: %s", ", ".join(other))


class Interrupted(Callback):
    """Ctrl-C between two steps leaves `last.ckpt`, even before the first validation.

    Not in a validation, during which the net holds its moving average and the average the net; and
    not where several processes would have to agree.
    """

    learning = False

    def on_train_start(self, trainer: Trainer, _: Any) -> None:
        CLI.begun = self.learning = True

    def on_train_end(self, trainer: Trainer, _: Any) -> None:
        self.learning = False

    def on_exception(self, trainer: Trainer, _: Any, exception: BaseException) -> None:
        between = self.learning and not trainer.validating
        alone = trainer.world_size == 1
        if isinstance(exception, KeyboardInterrupt) and between and alone and CLI.last:
            trainer.save_checkpoint(CLI.last)


class Lines(Callback):
    """A plain line per epoch where stderr is no terminal."""

    def on_train_epoch_end(self, trainer: Trainer, _: Any) -> None:
        numbers = {k: float(v) for k, v in trainer.callback_metrics.items() if k.endswith("loss")}
        told = ", ".join(f"{k} {v:.4f}" for k, v in sorted(numbers.items()))
        last = int(trainer.estimated_stepping_batches)
        # Where two optimisers take turns, the trainer counts the steps of both.
        of = f"/{last}" if trainer.lightning_module.automatic_optimization else ""
        epoch = trainer.current_epoch + 1
        print(f"step {trainer.global_step}{of}, epoch {epoch}: {told}", file=sys.stderr)


def hush() -> None:
    """Keep back what Lightning says and no user can act on."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def run_cli(argv: Sequence[str]) -> CLI:
    """Run a subcommand; a wrong configuration ends with status 2 before any data is read."""
    hush()
    check_flags(argv)
    argv = [*_with_recipes(argv)]
    # Without it cuBLAS may sum in another order in each run; read when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    terminal = sys.stderr.isatty()
    progress: list[Callback] = [RichProgressBar() if terminal else Lines(), Interrupted()]
    task, data = TASKS[task_of(argv)]
    CLI.made, CLI.last, CLI.begun = None, None, False
    try:
        return CLI(
            task,
            data,
            args=list(argv),
            parser_class=Parser,
            seed_everything_default=0,
            save_config_callback=SaveConfigCallback,
            trainer_defaults={
                "callbacks": progress,
                "devices": 1,  # memory, calibration and metrics are not shared by processes yet
                "enable_progress_bar": terminal,
                "enable_model_summary": False,
                "num_sanity_val_steps": 0,
            },
        )
    except (ValueError, OSError, MisconfigurationException):
        # A mistake such as a mistyped folder of data, found before the first step.
        made = CLI.made if not CLI.begun and not _is_further_process() else None
        if made and not any(made.rglob("*.ckpt")):
            shutil.rmtree(made)
        raise


def _with_recipes(argv: Sequence[str]) -> Iterator[str]:
    """The arguments, with a recipe of ours by its name (anomaly/ear_cpu.yaml) made a path."""
    before = ""
    for argument in argv:
        flag, equals, value = argument.partition("=")
        named = value if flag in RECIPE and equals else argument if before in RECIPE else ""
        ours = vision.configs() / named
        if named and not Path(named).exists() and ours.is_file():
            argument = f"{flag}={ours}" if equals else str(ours)
        yield argument
        before = argument


def task_of(argv: Sequence[str]) -> str:
    """What the last `--task`, or the last recipe that says one, asks for; else to inspect.

    Read before the parser is made, since what it accepts depends on it; a recipe that is no YAML is
    left to it.
    """
    found, named = "inspect", ""
    for before, argument in zip(["", *argv], argv, strict=False):
        flag, equals, value = argument.partition("=")
        value = value if equals else argument
        flag = flag if equals else before
        if flag in RECIPE and Path(value).is_file():
            try:
                recipe = yaml.safe_load(Path(value).read_text())
            except (yaml.YAMLError, UnicodeDecodeError):
                continue
            found = recipe.get("task", found) if isinstance(recipe, dict) else found
        elif flag == "--task":
            named = value
    wanted = named or found
    if wanted not in TASKS:
        raise ValueError(f"task {wanted}: choose one of {', '.join(TASKS)}")
    return wanted


def check_flags(argv: Sequence[str]) -> None:
    """ValueError for a `--model` flag beside a checkpoint, whose own net would silently win."""
    flags = [flag for flag in argv if flag.startswith("--model")]
    if flags and any(flag.startswith("--ckpt_path") for flag in argv):
        raise ValueError(
            f"{flags[0]}: a checkpoint brings its own net and settings; leave the flag out, or"
            " train anew without --ckpt_path"
        )


def check_checkpoint(path: Path, resume: bool) -> None:
    """ValueError for a file that is no checkpoint of ours, or to `resume` from a finished one."""
    wanted = "last.ckpt or model.ckpt of a run"
    try:
        checkpoint = read_checkpoint(path, wanted)
    except ValueError as error:
        raise ValueError(f"--ckpt_path {error}") from error
    if not {"state_dict", "visionmend"} <= checkpoint.keys():
        raise ValueError(f"--ckpt_path {path}: weights of another kind; give {wanted}")
    if resume and "optimizer_states" not in checkpoint:
        raise ValueError(
            f"--ckpt_path {path}: is finished, and nothing can be trained on; resume from last.ckpt"
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


def _is_further_process() -> bool:
    """Whether this is one of several training processes, and not the first."""
    return os.environ.get("LOCAL_RANK", "0") != "0"


def _run_folder(root: Path, recipe: str) -> Path:
    """`new_run`, but all processes of a training share the folder of the first, which starts them.

    Raises:
        ValueError: in a further process that something else started.
    """
    if not _is_further_process():
        folder = new_run(root, recipe)
        os.environ[RUN_FOLDER] = str(folder)
        return folder
    if RUN_FOLDER not in os.environ:
        raise ValueError(
            "several processes and no folder that they share; give --trainer.default_root_dir"
        )
    return Path(os.environ[RUN_FOLDER])


def _recipe(config: Any) -> str:
    """The name of the last recipe given, for the run's folder."""
    return Path(str(config.config[-1])).stem if config.get("config") else "default"
