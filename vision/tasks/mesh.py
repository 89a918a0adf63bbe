"""Training, validating and testing any net that recovers people."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning import LightningModule
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from vision import body as bodies
from vision.backbones import Backbone
from vision.body import Body
from vision.body.camera import project
from vision.body.smpl import BODY, SMPL_JOINTS
from vision.layers.precision import exact
from vision.layers.state import fill_from, read_checkpoint
from vision.mesh.losses import MeshLoss
from vision.mesh.mirror import mirrored
from vision.mesh.people import MeshSpec, People, Truth, stand
from vision.mesh.truth import GENDERS, Truths
from vision.metrics.mesh import (
    Matches,
    acceleration_error,
    aligned_error,
    match,
    point_error,
    precision_recall_f1,
    read_regressor,
    threedpw_errors,
)
from vision.tasks.results import (
    SaveNet,
    check_backbones,
    drop_modules,
    frozen_backbones,
    log_terms,
    one_device,
    save_net,
    save_results,
)
from vision.tasks.schedule import cosine, steps_of, stepwise


class MeshTask(LightningModule):
    """Learn to recover the people of pictures or clips.

    Args:
        net: what recovers: has a `MeshSpec` under `spec`; `net(images, camera, at)` gives something
            with `people` in it, and `assign` says which `at` true people are to be read from.
        loss: of what it says against what is true.
        body_models: folder of SMPL-X's or SMPL's files, where the net gives numbers of these or the
            data are true of them.
        regressors: folder with J_regressor_h36m_smpl.npy and, for a net of SMPL-X,
            J_regressor_h36m_smplx.npy: tests then give the errors of 3DPW's protocol too.
        lr: peak learning rate of AdamW, after a warm-up and before a cosine to nothing.
        tuning: factor on it for weights that were learned before and learn on: what modules of
            the net with a method `brought` say, as backbones do.
        weight_decay: of AdamW.
        warm_up: share of the steps over which the learning rate rises.
        threshold: score from which somebody counts as found; the net's own by default.
        features: folder in which is kept what frozen ViTs say of each picture
            (`vision.backbones.remembered`), for training on a CPU; with data.augment false.
        flips: whether every second picture or clip, by chance, is seen in a mirror in training;
            with `features` both ways are kept.
        start_from: a checkpoint of the same net whose tensors it begins with, say one of the files
            in vision/weights; its frozen backbones must be the same. What the net's spec calls
            `anew` may be missing.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: MeshLoss,
        body_models: str | None = None,
        lr: float = 5e-5,
        weight_decay: float = 1e-4,
        warm_up: float = 0.05,
        threshold: float | None = None,
        features: str | None = None,
        regressors: str | None = None,
        flips: bool = False,
        tuning: float = 1.0,
        start_from: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        drop_modules(self)
        if not isinstance(getattr(net, "spec", None), MeshSpec):
            raise ValueError(
                f"{type(net).__name__} has no spec (vision.mesh.people.MeshSpec); give it one"
            )
        self.net, self.loss = net, loss
        spec: Any = net.spec
        self.spec: MeshSpec = spec
        folder = None if body_models is None else Path(body_models)
        self.body = self.spec.create_body(folder)  # its arrays are in no state dict
        self.truths = Truths(self.spec.body, self.body, folder)
        self.thin = self.body.thinned(loss.every)
        self.thin_truths = Truths(self.spec.body, self.thin, folder, loss.every)
        self.regressors = regressors
        self.lr, self.weight_decay, self.warm_up = lr, weight_decay, warm_up
        self.tuning = tuning
        self.options = {} if threshold is None else {"threshold": threshold}
        self.features, self.flips = features, flips
        if features is not None:
            backbones = [m for m in net.modules() if isinstance(m, Backbone)]
            if not backbones:
                raise ValueError(
                    f"features: {type(net).__name__} has no frozen backbone to keep them of; leave"
                    " model.features out"
                )
            for backbone in backbones:
                backbone.remember(Path(features))
        if start_from is not None:
            fill_from(net, Path(start_from), anew=self.spec.anew)
            check_backbones(self, {"backbones": {}} | read_checkpoint(Path(start_from)))

    # ---- training

    def on_fit_start(self) -> None:
        data: Any = getattr(self.trainer, "datamodule", None)
        if self.features is not None and getattr(data, "augment", False):
            raise ValueError("features are kept of pictures as they are; set data.augment false")

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        if self.flips:
            which = torch.rand(len(batch["image"]), device=self.device) < 0.5
            names = SMPL_JOINTS if "gender" in batch else self.body.joint_names
            batch = mirrored(batch, which, names)
        terms = self._terms(batch, self.truth(batch, thin=True), self.thin)
        log_terms(self, terms, "train", len(batch["image"]))
        return terms["loss"]

    def _terms(
        self, batch: dict[str, Any], truth: Truth, body: bodies.BodyModel
    ) -> dict[str, Tensor]:
        at, kept = self._assign(truth)
        found = self.net(*_given(batch), at)
        with exact(truth.camera.device):
            return self.loss(self.net, found, truth.take(kept), body)

    def _assign(self, truth: Truth) -> tuple[Any, Tensor]:
        anchor = self.body.joint(self.spec.anchor or "pelvis")
        pixel = project(truth.joints[:, anchor, None], truth.camera)[:, 0]
        net: Any = self.net
        return net.assign(truth.picture, pixel, truth.box)

    def truth(self, batch: dict[str, Any], thin: bool = False) -> Truth:
        """Of a batch of `data.people.collate_people`; surfaces are decoded here, all or thinned."""
        with exact(batch["image"].device):
            return (self.thin_truths if thin else self.truths)(batch)

    def configure_optimizers(self) -> Any:
        trained: Any = [p for p in self.net.parameters() if p.requires_grad]
        if self.tuning != 1:
            parts: list[Any] = [m for m in self.net.modules() if hasattr(m, "brought")]
            brought = {parameter for part in parts for parameter in part.brought()}
            trained = [
                {"params": [p for p in trained if p not in brought]},
                {"params": [p for p in trained if p in brought], "lr": self.lr * self.tuning},
            ]
        optimizer = torch.optim.AdamW(trained, self.lr, weight_decay=self.weight_decay)
        steps = steps_of(self.trainer)
        return stepwise(optimizer, lambda step: cosine(step, steps, self.warm_up))

    # ---- validation and test

    def on_validation_epoch_start(self) -> None:
        self.found = Found()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        truth = self.truth(batch)
        self.found.add_losses(self._terms(batch, truth, self.body), len(batch["image"]))
        self.found.add(*self._recover(batch, truth), truth, self.body)

    def on_validation_epoch_end(self) -> None:
        found = Found.together(_of_all_processes(self.found))
        losses, means = found.mean_losses(), found.means()
        # Where a loss bears the name of an error, the error is logged. All processes have the same
        # numbers by now; sync_dist only tells Lightning so.
        for name, value in {**losses, **means}.items():
            shown = name == "loss" or name in means
            self.log(f"val/{name}", value, prog_bar=shown, sync_dist=True)

    def on_test_epoch_start(self) -> None:
        one_device(self.trainer, "a test")
        self.found = Found(self._protocol())

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        truth = self.truth(batch)
        self.found.add(*self._recover(batch, truth), truth, self.body)

    def on_test_epoch_end(self) -> None:
        results = self.found.means()
        self.log_dict({f"test/{name}": value for name, value in results.items()})
        save_results(results, Path(self.trainer.default_root_dir), body=self.spec.body)

    def _protocol(self) -> tuple[Tensor, Tensor] | None:
        """Regressors of the net's body model and of the true one, if 3DPW's protocol is wanted.

        Raises:
            ValueError: a regressor or a file of SMPL is missing.
        """
        if self.regressors is None:
            return None
        if not self.truths.gendered:
            why = next(w for w in map(self.truths.missing, GENDERS) if w)
            raise ValueError(f"3DPW's protocol takes SMPL of both genders: {why}")
        self.truths.surfaces = True
        own, true = (read_regressor(Path(self.regressors), b) for b in (self.spec.body, "smpl"))
        return own, true

    def _recover(self, batch: dict[str, Any], truth: Truth) -> tuple[People, Body]:
        """As in use: the net finds the people itself, or gets their boxes if it asks for them."""
        if self.spec.reads == "crops":
            at, _ = self._assign(truth)
            people = self.net(*_given(batch), at).people
        else:
            people = self.net(*_given(batch), **self.options).people
        with exact(people.place.device):
            return people, stand(people, self.spec, self.body)

    # ---- the finished net

    def configure_callbacks(self) -> list[Callback]:
        return [SaveNet()]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["visionmend"] = "mesh"
        checkpoint["backbones"] = frozen_backbones(self)
        # Where the files are is the user's affair, and a recipe says it again.
        told, own = checkpoint["hyper_parameters"], ("body_models", "regressors", "features")
        kept = {k: v for k, v in told.items() if k not in own}
        # What the net began with is part of it now, and may be gone when the checkpoint is read.
        checkpoint["hyper_parameters"] = {**kept, "start_from": None}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_backbones(self, checkpoint)

    def save(self, path: Path) -> None:
        """Write the finished net: weights, and how to build it again."""
        save_net(self, self.net, path)


def _given(batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Pictures and cameras B×3×3, or clips and cameras B×T×3×3."""
    image, camera = batch["image"], batch["camera"]
    return image, camera if image.dim() == 4 else camera.unflatten(0, image.shape[:2])


def _of_all_processes(own: Found) -> list[Found]:
    """What each process of a training found, in one order for all; all of them must call it."""
    if not dist.is_available() or not dist.is_initialized():
        return [own]
    every = [own] * dist.get_world_size()
    dist.all_gather_object(every, own)
    return every


class Found:
    """Errors of the people found so far, in mm, and of the mean body where they are.

    MPJPE over 22 joints of the body that all body models share, from the pelvis; hands from the
    wrist and the face from the neck, over the vertices that follow them, and each after its own
    alignment (`pa_hands`, `pa_face`: how fingers bend, whichever way the hand is turned);
    `mpjpe_of_mean` is that of the average body that stands and looks into the camera, with its
    pelvis at the right place, and `mpjpe_of_turned` that of the same turned as the person is.
    Acceleration of tracks counts from the pelvis, as in the tables of 3DPW (Kocabas et al., "VIBE",
    CVPR 2020), and in space, where the unrest of places is in it too: over all three frames one
    after another in which the same true person was found, so a missed frame costs those around it
    and no others. Errors of surfaces are left out where the true ones are not known or of another
    model. Losses of a validation are kept here too, so that processes share them with the errors.

    Args:
        regressors: of Human3.6M for the net's body model, 17×V, and for the true one: errors of
            3DPW's protocol are then given too, over the same people.
    """

    def __init__(self, regressors: tuple[Tensor, Tensor] | None = None) -> None:
        self.regressors = regressors
        self.errors: defaultdict[str, list[float]] = defaultdict(list)
        self.losses: defaultdict[str, list[float]] = defaultdict(list)
        self.matches: list[Matches] = []

    def add(self, people: People, stood: Body, truth: Truth, body: bodies.BodyModel) -> None:
        """People of a batch, found and true."""
        with exact(truth.camera.device):
            self._add(people, stood, truth, body)

    def _add(self, people: People, stood: Body, truth: Truth, body: bodies.BodyModel) -> None:
        own = torch.tensor([body.joint(name) for name in BODY], device=truth.picture.device)
        pairs: list[tuple[int, int]] = []
        for picture in torch.cat([people.picture, truth.picture]).unique().tolist():
            mine = (people.picture == picture).nonzero()[:, 0]
            theirs = (truth.picture == picture).nonzero()[:, 0]
            if not len(mine) or not len(theirs):
                self.matches.append(Matches([], len(mine), len(theirs)))
                continue
            camera = truth.camera[theirs[0]]
            found = match(
                project(stood.joints[mine][:, own], camera).cpu().numpy(),
                project(truth.joints[theirs][:, own], camera).cpu().numpy(),
            )
            self.matches.append(found)
            pairs += [(int(mine[a]), int(theirs[b])) for a, b in found.pairs]
        if pairs:
            chosen = [torch.tensor(side, device=own.device) for side in zip(*pairs, strict=True)]
            self._measure(Body(*(f[chosen[0]] for f in stood)), truth.take(chosen[1]), body, own)

    def _measure(self, mine: Body, truth: Truth, body: bodies.BodyModel, own: Tensor) -> None:
        origin, true_origin = mine.joints[:, 0], truth.joints[:, 0]
        joints, wanted = mine.joints[:, own], truth.joints[:, own]
        self._note("mpjpe", point_error(joints, wanted, origin, true_origin))
        self._note("pa_mpjpe", aligned_error(joints, wanted))
        if truth.same_surface:
            self._note("pve", point_error(mine.vertices, truth.vertices, origin, true_origin))
            for name, joint, words in PARTS:
                some, start = body.part(*words), body.joint(joint)
                points = (mine.vertices[:, some], truth.vertices[:, some])
                starts = (mine.joints[:, start], truth.joints[:, start])
                self._note(name, point_error(*points, *starts))
                self._note(f"pa_{name}", aligned_error(*points))
        if self.regressors is not None:
            errors = threedpw_errors(mine.vertices, truth.vertices, *self.regressors)
            for name, values in errors._asdict().items():
                if values is not None:
                    self._note(f"3dpw_{name}", values)
        self._note("place", point_error(origin[:, None], true_origin[:, None]))
        pose = body.still(len(truth.picture)).clone()
        shape = body.neutral_shape.expand(len(pose), -1)
        pose[:, 0] = torch.diag(torch.tensor([1.0, -1, -1])).to(pose)
        for name in ("mpjpe_of_mean", "mpjpe_of_turned"):
            mean = body(pose, shape).joints
            self._note(name, point_error(mean[:, own], wanted, mean[:, 0], true_origin))
            pose[:, 0] = truth.pose[:, 0]
        for who in truth.track.unique():
            rows = (truth.track == who).nonzero()[:, 0]
            rows = rows[truth.picture[rows].argsort()]
            missed = (truth.picture[rows].diff() != 1).nonzero()[:, 0] + 1
            for run in rows.tensor_split(missed.tolist()):
                if len(run) > 2:
                    placed = joints[run], wanted[run]
                    centred = placed[0] - origin[run, None], placed[1] - true_origin[run, None]
                    self._note("acceleration", acceleration_error(*centred))
                    self._note("acceleration_in_space", acceleration_error(*placed))

    def _note(self, name: str, values: Tensor) -> None:
        both = re.sub("(left|right)_hand", "hands", name)
        self.errors[both] += values.tolist()

    def means(self) -> dict[str, float]:
        """Means over people; precision, recall and F1 of finding them."""
        rates = dict(zip(("precision", "recall", "f1"), precision_recall_f1(self.matches)))  # noqa: B905
        return {**rates, **_means(self.errors)}

    def add_losses(self, terms: Mapping[str, Tensor], count: int) -> None:
        """Terms of a loss over a batch of so many pictures, each of which counts."""
        for name, value in terms.items():
            self.losses[name] += count * [float(value)]

    def mean_losses(self) -> dict[str, float]:
        """Means over pictures."""
        return _means(self.losses)

    @classmethod
    def together(cls, parts: Iterable[Found]) -> Found:
        """As if one had seen what each of these has; some may have seen nobody."""
        whole = cls()
        for part in parts:
            whole.matches += part.matches
            for mine, theirs in ((whole.errors, part.errors), (whole.losses, part.losses)):
                for name, values in theirs.items():
                    mine[name] += values
        return whole


def _means(values: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: float(np.mean(numbers)) for name, numbers in values.items()}


PARTS: Sequence[tuple[str, str, tuple[str, ...]]] = (
    *(
        (f"{side}_hand", f"{side}_wrist",
         tuple(f"{side}_{part}" for part in
               ("wrist", "hand", "thumb", "index", "middle", "ring", "pinky")))
        for side in ("left", "right")
    ),
    ("face", "neck", ("head", "jaw", "eye")),
)  # fmt: skip
"""Of the body: the joint that errors count from, and words in the names of its joints."""
