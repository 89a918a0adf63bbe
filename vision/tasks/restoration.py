"""Training, validating and testing any net that restores, alone or against a discriminator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from lightning import LightningModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn

from data.degrade import U8, bicubic
from vision.layers.state import fill_from
from vision.losses.restoration import L1, RestorationLoss, lsgan, vanilla_gan
from vision.metrics.restoration import psnr, psnr_b, psnr_y, ssim, ssim_y
from vision.restoration.spec import Spec
from vision.tasks.results import SaveNet, drop_modules, one_device, save_net, save_results
from vision.tasks.schedule import cosine, steps_of, stepwise

SHOWN = 4
"""Validation pictures in the log: input, result and truth side by side."""


class RestorationTask(LightningModule):
    """Learn to make the target of a pair from its input.

    Args:
        net: what restores: has a `spec`, and maps B×C×H×W in [0, 1] to the same, `spec.scale` times
            as large; called with the region maps too where its spec says so.
        loss: of a result; L1 by default.
        lr: learning rate of Adam.
        betas: of Adam; HAT's by default.
        halve_at: steps after which the learning rate is halved. None lets it fall as a cosine to
            `min_lr` over the whole training.
        min_lr: where the cosine ends.
        warm_up: share of the steps over which the learning rate rises from nothing.
        evaluate: how results are measured: `y` on luma without a border of `scale` pixels (the
            convention for super-resolution), `rgb` on all channels and pixels. By default `y` for a
            net that enlarges, `rgb` for others.
        start_from: a checkpoint whose tensors the net begins with, of ×2 for ×4 or of a
            pre-training. What the net's spec calls `anew` may differ; all else must fit.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: RestorationLoss | None = None,
        lr: float = 2e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        halve_at: Sequence[int] | None = None,
        min_lr: float = 1e-6,
        warm_up: float = 0.0,
        evaluate: Literal["y", "rgb"] | None = None,
        start_from: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        drop_modules(self)
        if not hasattr(net, "spec"):
            raise ValueError(
                f"{type(net).__name__} has no spec (vision.restoration.spec.Spec); give it one"
            )
        self.net, self.loss = net, loss or L1()
        spec: Any = net.spec
        self.spec: Spec = spec
        self.lr, self.betas, self.halve_at, self.min_lr = lr, betas, halve_at, min_lr
        self.warm_up = warm_up
        self.evaluate = evaluate or ("y" if self.spec.scale > 1 else "rgb")
        if start_from is not None:
            fill_from(net, Path(start_from), anew=self.spec.anew)

    def restore(self, batch: dict[str, Any]) -> Tensor:
        """What the net makes of a batch, not clamped.

        Raises:
            ValueError: pictures of other channels than the net's.
        """
        given, wanted = batch["input"].shape[1], self.spec.channels
        if given != wanted:
            cure = "set grey: true in the data set" if wanted == 1 else "take the net's for colour"
            raise ValueError(
                f"{type(self.net).__name__} takes {wanted} channel(s), the data has {given}; {cure}"
            )
        if self.spec.regions:
            return self.net(batch["input"], batch["region"])
        return self.net(batch["input"])

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        loss = self.loss(self.restore(batch), batch["target"], batch.get("region"))
        self._log_loss("train/loss", loss, batch)
        return loss

    def _log_loss(self, name: str, value: Tensor, batch: dict[str, Any]) -> None:
        size = len(batch["input"])
        options: dict[str, Any] = {"on_epoch": True, "on_step": False, "sync_dist": True}
        self.log(name, value, prog_bar=True, batch_size=size, **options)

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.net.parameters() if p.requires_grad]
        return self._optimizer(trained, self.lr, self.betas)

    def _optimizer(self, parameters: list[Any], lr: float, betas: tuple[float, float]) -> Any:
        batches = self._batches()
        optimizer = torch.optim.Adam(parameters, lr, betas)
        return stepwise(optimizer, lambda step: self._factor(step, batches))

    def _batches(self) -> int:
        return steps_of(self.trainer)

    def _factor(self, step: int, steps: int) -> float:
        """The learning rate of a step, over the first one's."""
        if self.halve_at is None:
            return cosine(step, steps, self.warm_up, self.min_lr / self.lr)
        halved = 0.5 ** sum(step >= milestone for milestone in self.halve_at)
        return halved * min(1.0, (step + 1) / max(1.0, self.warm_up * steps))

    def on_fit_start(self) -> None:
        # Each of several processes draws crops and noise of its own.
        torch.manual_seed(torch.initial_seed() + self.global_rank)

    # ---- validation and test: every picture whole

    def on_validation_epoch_start(self) -> None:
        self.found: list[dict[str, float]] = []

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        restored = self.restore(batch)
        loss = self.loss(restored, batch["target"], batch.get("region"))
        self._log_loss("val/loss", loss, batch)
        for mine, target, path in zip(restored, batch["target"], batch["path"], strict=True):
            self.found.append(self._measured(pixels(mine), pixels(target), path))
        if batch_idx < SHOWN:
            self._show(batch, restored, batch_idx)

    def on_validation_epoch_end(self) -> None:
        means = {f"val/{name}": value for name, value in _means(self.found).items()}
        self.log_dict(means, prog_bar=True, sync_dist=True)

    def on_test_epoch_start(self) -> None:
        one_device(self.trainer, "a test")
        self.found = []
        self.before: list[dict[str, float]] = []

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        restored = self.restore(batch)
        names = ("input", "target", "path")
        for mine, given, target, path in zip(restored, *(batch[n] for n in names), strict=True):
            before, truth = pixels(given), pixels(target)
            if self.spec.scale > 1:
                before = bicubic(before, self.spec.scale)
            self.found.append(self._measured(pixels(mine), truth, path))
            self.before.append(self._measured(before, truth, path))

    def on_test_epoch_end(self) -> None:
        results = _means(self.found)
        results |= {f"{name}_of_input": value for name, value in _means(self.before).items()}
        self.log_dict({f"test/{name}": value for name, value in results.items()})
        save_results(results, Path(self.trainer.default_root_dir), evaluated=self.evaluate)

    def _measured(self, restored: U8, truth: U8, path: str) -> dict[str, float]:
        """The metrics of one picture H×W×C, at 8 bits as published figures are.

        Equal pictures have 100 dB, since with infinity no mean would say anything.
        """
        try:
            found = self._metrics(restored, truth)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return {k: min(v, 100.0) for k, v in found.items()}

    def _metrics(self, restored: U8, truth: U8) -> dict[str, float]:
        if self.evaluate == "y":
            pair, border = (restored, truth), self.spec.scale
            return {"psnr": psnr_y(*pair, border), "ssim": ssim_y(*pair, border)}
        found = {"psnr": psnr(restored, truth), "ssim": ssim(restored, truth)}
        found["psnr_b"] = psnr_b(restored, truth)
        if truth.shape[2] == 1:
            # What published figures of RAT are: grey read as RGB, its luma is 1.32 dB better.
            pair = (restored.repeat(3, axis=2), truth.repeat(3, axis=2))
            found["psnr_as_rgb"], found["ssim_as_rgb"] = psnr_y(*pair, 0), ssim_y(*pair, 0)
        return found

    def _show(self, batch: dict[str, Any], restored: Tensor, number: int) -> None:
        for logger in self.loggers:
            if isinstance(logger, TensorBoardLogger):
                size = restored.shape[-2:]
                before = F.interpolate(batch["input"][:1], size, mode="nearest")
                parts = (before, restored[:1], batch["target"][:1])
                row = torch.cat([middle(part) for part in parts], -1)[0].clamp(0, 1)
                logger.experiment.add_image(f"val/{number}", row.float().cpu(), self.global_step)

    # ---- the finished net

    def configure_callbacks(self) -> list[Callback]:
        return [SaveNet()]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["visionmend"] = "restoration"
        # What the net began with is part of it now, and may be gone when the checkpoint is read.
        checkpoint["hyper_parameters"] = {**checkpoint["hyper_parameters"], "start_from": None}
        state = checkpoint["state_dict"]  # without VGG, where it is the loss
        checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith("loss.")}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # A finished net comes without its discriminator, which a test does not need.
        whole = "optimizer_states" in checkpoint
        spare = ("loss.",) if whole else ("loss.", "discriminator.")
        own = {k: v for k, v in self.state_dict().items() if k.startswith(spare)}
        checkpoint["state_dict"] = {**own, **checkpoint["state_dict"]}

    def save(self, path: Path) -> None:
        """Write the finished net: weights, and how to build it again."""
        save_net(self, self.net, path)


class AdversarialTask(RestorationTask):
    """The same against a discriminator that learns to tell results from truths.

    MPGNet learns the degradation itself: `conditional`, `lsgan`, L1 weight 10 in the loss, three
    steps of the discriminator for one of the net (arXiv 2209.11455). Real HAT: unconditional,
    `vanilla`, adversarial weight 0.1 (arXiv 2309.05239, released configuration).

    Args:
        net, loss, …: as of `RestorationTask`.
        discriminator: B×C×H×W → logits of any shape; twice as many channels if `conditional`.
        conditional: whether it sees the input beside the result.
        gan: `lsgan` or `vanilla`.
        weight: of the adversarial loss beside `loss`.
        discriminator_lr: of Adam, with `betas`.
        discriminator_steps: for each step of the net.
    """

    def __init__(
        self,
        net: nn.Module,
        discriminator: nn.Module,
        conditional: bool = True,
        gan: Literal["lsgan", "vanilla"] = "lsgan",
        weight: float = 1.0,
        discriminator_lr: float = 1e-3,
        discriminator_steps: int = 3,
        **options: Any,
    ) -> None:
        super().__init__(net, **options)
        self.save_hyperparameters()
        drop_modules(self)
        if discriminator_steps < 1:
            raise ValueError(f"discriminator_steps={discriminator_steps}: give 1 or more")
        if conditional and self.spec.scale > 1:
            raise ValueError(
                "conditional: a net that enlarges gives no picture of the size of its input; set"
                " conditional: false"
            )
        wanted = self.spec.channels * (2 if conditional else 1)
        if getattr(discriminator, "channels", wanted) != wanted:
            raise ValueError(
                f"the discriminator must take {wanted} channels; set channels: {wanted}"
            )
        self.discriminator, self.conditional = discriminator, conditional
        self.gan = {"lsgan": lsgan, "vanilla": vanilla_gan}[gan]
        self.weight, self.discriminator_lr = weight, discriminator_lr
        self.discriminator_steps = discriminator_steps
        self.automatic_optimization = False  # two optimisers take turns
        self.turn = 0

    def on_fit_start(self) -> None:
        one_device(self.trainer, "an adversarial training")

    def configure_optimizers(self) -> Any:
        parameters = [*self.discriminator.parameters()]
        ours = super().configure_optimizers()
        theirs = self._optimizer(parameters, self.discriminator_lr, self.betas)
        return [ours["optimizer"], theirs["optimizer"]], [
            ours["lr_scheduler"],
            theirs["lr_scheduler"],
        ]

    def _batches(self) -> int:
        if self.trainer.max_steps < 0:
            return super()._batches()
        turns = self.discriminator_steps  # the trainer counts the steps of both
        return max(1, super()._batches() * turns // (turns + 1))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        ours, theirs = self.optimizers()  # type: ignore[attr-defined]
        both = self.turn % self.discriminator_steps == 0
        self.turn += 1
        with torch.set_grad_enabled(both):
            restored = self.restore(batch)
        judged = self._judge_loss(batch, restored.detach())
        self._step(theirs, judged)
        self._log_loss("train/discriminator", judged, batch)
        if both:
            loss = self._fooling_loss(batch, restored)
            self._step(ours, loss)
            self._log_loss("train/loss", loss, batch)
        for schedule in self.lr_schedulers():  # type: ignore[union-attr]
            schedule.step()

    def _fooling_loss(self, batch: dict[str, Any], restored: Tensor) -> Tensor:
        self.discriminator.requires_grad_(False)
        fooling = self.gan(self._judge(batch, restored), True)
        self.discriminator.requires_grad_(True)
        return self.loss(restored, batch["target"], batch.get("region")) + self.weight * fooling

    def _judge(self, batch: dict[str, Any], image: Tensor) -> Tensor:
        """The discriminator's logits."""
        return self.discriminator(
            torch.cat([image, batch["input"]], 1) if self.conditional else image
        )

    def _judge_loss(self, batch: dict[str, Any], restored: Tensor) -> Tensor:
        real = self.gan(self._judge(batch, batch["target"]), True)
        return real + self.gan(self._judge(batch, restored), False)

    def _step(self, optimizer: Any, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


def middle(images: Tensor, side: int = 384) -> Tensor:
    """At most side×side pixels of B×C×H×W."""
    top, left = (max(0, (edge - side) // 2) for edge in images.shape[-2:])
    return images[..., top : top + side, left : left + side]


def pixels(image: Tensor) -> U8:
    """C×H×W in [0, 1] → uint8 H×W×C."""
    return (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def _means(found: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means over pictures, as the literature takes them; not over all pixels."""
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}
