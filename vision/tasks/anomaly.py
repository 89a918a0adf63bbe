"""Training, calibrating and testing any net that inspects."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import track
from torch import Tensor

from data.defects import paint
from vision.anomaly.detector import Detector
from vision.anomaly.scoring import COMPONENTS, Scorer, best_scoring
from vision.layers.precision import exact, repeatable
from vision.losses import RecoveryLoss
from vision.metrics import AnomalyMetrics, image_auroc
from vision.tasks.results import (
    MODEL_FILE,
    check_backbones,
    drop_modules,
    frozen_backbones,
    log_terms,
    one_device,
    save_model,
    save_results,
    take_average,
)
from vision.tasks.schedule import steps_of

# Pictures with a painted defect, to choose a scoring by: at most three of each held-out picture,
# and no more than this in all, since each costs an inspection.
PAINTED = 192


class AnomalyTask(LightningModule):
    """Learn to recover good pictures; then remember, calibrate, and test.

    Args:
        net: what inspects (`EAR`, `RIAD`, `FeatureNeighbours`, or your own `Detector`).
        loss: of a recovery; L2 + SSIM + MSGMS with equal weights by default (RIAD's).
        scorer: smoothing, fusion, false-alarm rate.
        lr: peak learning rate of AdamW, after a warm-up of 5% of the steps and before a cosine.
        weight_decay: of AdamW.
    """

    def __init__(
        self,
        net: Detector,
        loss: RecoveryLoss | None = None,
        scorer: Scorer | None = None,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__()
        # Under the command line this keeps class paths, and a checkpoint rebuilds its own net. A
        # task built by hand holds objects, which no checkpoint may carry.
        self.save_hyperparameters()
        drop_modules(self)
        self.net = net
        self.loss = loss or RecoveryLoss()
        self.scorer = scorer or Scorer()
        wanted = self.scorer.scoring
        given = [c for c, names in COMPONENTS.items() if set(names) <= set(net.map_names)]
        self.choices = given if wanted == "best" else [wanted]
        if not set(self.choices) <= set(given):
            raise ValueError(
                f"scoring={wanted}: needs the maps {COMPONENTS[wanted]}, but"
                f" {type(net).__name__} gives {net.map_names}; use one of best, {', '.join(given)}"
            )
        self.lr, self.weight_decay = lr, weight_decay
        self.metrics = AnomalyMetrics()

    def setup(self, stage: str) -> None:
        # Memory, calibration and metrics see every picture.
        one_device(self.trainer, "a detector")

    def on_fit_start(self) -> None:
        if not self.net.learns:
            self.trainer.fit_loop.max_epochs = 0  # there is nothing to do but to remember

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return self._recovery_loss(batch, "train")

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        return self._recovery_loss(batch, "val") if self.net.learns else None

    def _recovery_loss(self, batch: dict[str, Any], stage: str) -> Tensor:
        terms = self.loss(*self.net.recover(batch["image"]))
        log_terms(self, terms, stage, len(batch["image"]))
        return terms["loss"]

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.parameters() if p.requires_grad]
        if not trained:
            return None
        optimizer = torch.optim.AdamW(trained, lr=self.lr, weight_decay=self.weight_decay)
        steps = steps_of(self.trainer)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.lr, total_steps=steps + 1, pct_start=0.05
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def configure_callbacks(self) -> list[Callback]:
        return [Finish()]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["visionmend"] = "anomaly"
        checkpoint["backbones"] = frozen_backbones(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_backbones(self, checkpoint)
        for schedule in checkpoint.get("lr_schedulers", []):
            # Training may go on for longer than it was begun for.
            for key in ("total_steps", "_schedule_phases"):
                schedule.pop(key, None)

    def save(self, path: Path) -> None:
        """Write the finished detector: weights, memory, threshold, and how to build it again."""
        save_model(self, self.state_dict(), path)

    # ---- after training: remember, choose the scoring, set the threshold

    @torch.inference_mode()
    def finish(self, datamodule: Any) -> dict[str, float]:
        """Fill the memory, choose the scoring and set the threshold, from good pictures alone.

        Where several maps can be fused, the scoring is chosen on the held-out good pictures against
        the same pictures with painted defects (`data.defects`); test pictures have no part in it.

        Returns:
            The image AUROC of each candidate on the painted pictures (empty if one was set).
        """
        self.eval()
        with repeatable(), exact(self.device):
            told = self._told(datamodule.good_dataloader(), "remembering good parts")
            pictures = (batch["image"].to(self.device) for batch in told)
            found: Iterable[dict[str, Tensor]]
            if datamodule.few:
                found = self.net.remember_few(pictures)
            else:
                self.net.remember(pictures)
                told = self._told(datamodule.val_dataloader(), "calibrating")
                found = (maps for batch in told for maps in self._maps(batch["image"]))
            # Kept on the CPU, where a map more for every held-out picture finds room.
            smoothed = [
                {name: m.cpu() for name, m in self.scorer.smoothed(maps).items()} for maps in found
            ]
            peaks = {n: torch.cat([_peaks(m[n]) for m in smoothed]) for n in smoothed[0]}
            self.scorer.set_scale(peaks)
            good = {
                choice: torch.cat([self._fused(maps, choice) for maps in smoothed])
                for choice in self.choices
            }
            choice, results = self.choices[0], {}
            if len(good) > 1:
                bad = self._painted_scores(datamodule.val_dataloader(), len(good[choice]))
                results = {c: _auroc(good[c], bad[c]) for c in good}
                choice = best_scoring(results, len(good[choice]), len(bad[choice]))
            self.scorer.set_threshold(choice, good[choice])
        return results

    def _fused(self, smoothed: dict[str, Tensor], choice: str) -> Tensor:
        """Maps B×1×S×S, wherever they are → B scores."""
        here = {name: m.to(self.device) for name, m in smoothed.items()}
        return _peaks(self.scorer.fuse(here, choice))

    def _painted_scores(self, held_out: Any, count: int) -> dict[str, Tensor]:
        """Scores under each scoring of the `count` held-out pictures with a painted defect.

        At most three copies of each, and at most PAINTED in all, of pictures evenly apart.
        """
        copies, every = min(3, max(1, PAINTED // count)), -(-count // PAINTED)
        scores: dict[str, list[Tensor]] = {choice: [] for choice in self.choices}
        number = 0
        for batch in self._told(held_out, "choosing the scoring"):
            for image, index in zip(batch["image"], batch["index"], strict=True):
                for painted in self._painted(image, index, copies if number % every == 0 else 0):
                    maps = self.scorer.smoothed(self.net.maps(painted[None].to(self.device)))
                    for choice, found in scores.items():
                        found.append(self._fused(maps, choice))
                number += 1
        return {choice: torch.cat(found) for choice, found in scores.items()}

    def _painted(self, image: Tensor, index: int, copies: int) -> Iterator[Tensor]:
        """Copies of the 3×H×W picture, a defect in each inside what the net takes for the part."""
        if not copies:
            return
        region = self.net.region(image[None].to(self.device))[0, 0].cpu().numpy() > 0.5
        rgb = (image.permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8)
        for copy in range(copies):
            picture, _ = paint(rgb, np.random.default_rng([index, copy]), region=region)
            yield torch.from_numpy(picture).permute(2, 0, 1).float() / 255

    def _maps(self, images: Tensor) -> Iterator[dict[str, Tensor]]:
        """Of each picture by itself, as `Predictor` does: the threshold must see the same."""
        return (self.net.maps(image[None].to(self.device)) for image in images)

    def _told(self, batches: Any, what: str) -> Iterable[dict[str, Any]]:
        """The batches, with a bar on a terminal and a plain line elsewhere."""
        console = Console(stderr=True)
        if console.is_terminal:
            return track(batches, what, len(batches), console=console, transient=True)
        print(f"{what}: {len(batches)} batches", file=sys.stderr)
        return batches

    # ---- test

    def on_test_epoch_start(self) -> None:
        self.metrics.reset()
        self.marked = True  # until a defect comes that nobody marked
        self.test_scores: list[tuple[int, float]] = []
        self.seconds: list[float] = []  # per picture, of each batch

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        # Full precision whatever the trainer's: what is tested is what `infer.py inspect` does.
        with repeatable(), exact(self.device):
            begin = time.perf_counter()
            each = [self.scorer(self.net.maps(image[None])) for image in batch["image"]]
            scores = [float(score) for score, _ in each]  # waits for a GPU to finish
            self.seconds.append((time.perf_counter() - begin) / len(scores))
        labels = batch["label"].tolist()
        self.test_scores += zip(labels, scores, strict=True)
        masks = batch["mask"]
        self.marked = self.marked and all(mask is not None for mask in masks)
        if self.marked:
            maps = [
                F.interpolate(m, mask.shape, mode="bilinear", align_corners=False)[0, 0]
                for (_, m), mask in zip(each, masks, strict=True)
            ]
            self.metrics.update(scores, labels, maps, masks)

    def on_test_epoch_end(self) -> None:
        labels, scores = zip(*self.test_scores, strict=True)
        good = [score for label, score in self.test_scores if label == 0]
        bad = [score for label, score in self.test_scores if label == 1]
        results: dict[str, float] = {}  # what the pictures that are there can tell
        if good and bad:
            auroc = {"image_auroc": image_auroc(scores, labels)}
            results = self.metrics.compute() if self.marked else auroc
        for rate in sorted({0.01, 0.05, self.scorer.false_alarms}) if good else ():
            threshold = self.scorer.score_at(rate)
            results[f"alarms_at_{rate:g}"] = sum(score >= threshold for score in good) / len(good)
        for name, some in (("alarms", good), ("found", bad)):  # at the detector's own threshold
            if some:
                results[name] = sum(score >= 0.5 for score in some) / len(some)
        results["ms_per_image"] = 1000 * float(np.median(self.seconds))
        self.log_dict({f"test/{name}": value for name, value in results.items()})
        folder = Path(self.trainer.default_root_dir)
        save_results(results, folder, scoring=self.scorer.choice)


def _peaks(maps: Tensor) -> Tensor:
    """B×1×S×S → B maxima."""
    return maps.flatten(1).amax(1)


def _auroc(good: Tensor, bad: Tensor) -> float:
    labels = np.repeat([0, 1], [len(good), len(bad)])
    return image_auroc(torch.cat([good, bad]).cpu().numpy(), labels)


class Finish(Callback):
    """After the last step: remember, calibrate, and write `model.ckpt` into the run's folder.

    The weights are the last ones (their moving average), not those of the best validation: the
    learning rate has come down to nothing by then, and the held-out pictures, which set the
    threshold, have had no part in choosing them. With early stopping they say when to stop, and
    with `scoring: best` which map is used, so that the threshold's rate is then not exact.
    """

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, AnomalyTask)
        if trainer.fast_dev_run or trainer.interrupted:  # type: ignore[attr-defined]
            return
        take_average(trainer, module)
        # The trainer has moved the module to the CPU by now, and the ViT is slow there.
        module.to(trainer.strategy.root_device)
        results = module.finish(trainer.datamodule)  # type: ignore[attr-defined]
        path = Path(trainer.default_root_dir) / MODEL_FILE
        module.cpu().save(path)
        for name, auroc in results.items():
            print(f"scoring {name}: image AUROC {auroc:.4f} on painted held-out parts")
        print(f"scoring in use: {module.scorer.choice}; the detector is {path}")
