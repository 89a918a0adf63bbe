"""A detector as the engine calls it, and loading one: round trip, and all that must be refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectors import pictures, tiny_vit
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from vision.anomaly import EAR, RIAD, Detector, FeatureNeighbours, Scorer
from vision.backbones import Backbone
from vision.run.inspect import Inspection
from vision.run.predictor import AnomalyPredictor
from vision.run.weights import CheckpointError, load

Checkpoint = dict[str, Any]


class Brightness(Detector):
    """The picture's own brightness as its map; also the net of another package."""

    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.size = self.input_size = size

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        return {"structure": images.mean(1, keepdim=True)}


def photo(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def calibrated(choice: str = "published", **options: Any) -> Scorer:
    scorer = Scorer(**{"smooth": 1.0, "smooth_features": 1.0, **options})
    scorer.set_threshold(choice, torch.tensor([0.2, 0.3, 0.35, 0.4, 0.5]))
    return scorer


def brightness() -> AnomalyPredictor:
    """Defective is what is brighter than 0.5 somewhere."""
    scorer = Scorer(smooth=0)
    scorer.set_threshold("published", torch.full((4,), 0.5))
    return AnomalyPredictor(Brightness(), scorer)


def same(first: Inspection, second: Inspection) -> bool:
    equal = (first.score, first.verdict) == (second.score, second.verdict)
    return equal and np.array_equal(first.map, second.map)


# --- predicting


@pytest.mark.parametrize("shape", [(8, 8), (9, 37), (40, 8), (100, 60)])
def test_the_map_has_the_size_of_the_picture(shape: tuple[int, int]) -> None:
    found = brightness()(photo(*shape))
    assert found.map.shape == shape
    assert found.map.dtype == np.float32
    assert found.map.min() >= 0
    assert found.map.max() < 1


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (300, 7)])
def test_pictures_too_small_to_show_a_part(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="pixels shows no part; give 8 or more a side"):
        brightness()(photo(*shape))


def test_score_verdict_and_place() -> None:
    image = np.zeros((80, 160, 3), np.uint8)
    assert brightness()(image).verdict == "good"
    image[50:60, 100:120] = 255
    found = brightness()(image)
    assert found.verdict == "defect"
    assert found.score == pytest.approx(0.5 + 0.5 * 0.5 / 1.5)  # white is 0.5 above the threshold
    assert np.unravel_index(found.map.argmax(), found.map.shape) == pytest.approx((55, 110), abs=6)
    assert found.map[:30].max() < 0.5


def test_at_the_threshold_it_is_a_defect() -> None:
    white = np.full((8, 8, 3), 255, np.uint8)
    scorer = Scorer(smooth=0)
    scorer.set_threshold("published", torch.ones(4))
    like_the_held_out = AnomalyPredictor(Brightness(), scorer)(white)
    assert like_the_held_out.score < 0.5
    assert like_the_held_out.verdict == "good"
    scorer.threshold.fill_(1)
    found = AnomalyPredictor(Brightness(), scorer)(white)
    assert (found.score, found.verdict) == (0.5, "defect")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ear", "riad", "neighbours"])
def test_neighbours_and_repetition_change_no_bit(kind: str) -> None:
    torch.manual_seed(1)
    nets: dict[str, Callable[[], Detector]] = {
        "ear": lambda: EAR(tiny_vit(), unet="tiny", size=64, mask_grid=4, feature_grids=(4,)),
        "riad": lambda: RIAD(unet="tiny", size=64),
        "neighbours": lambda: FeatureNeighbours(tiny_vit(), grids=[4], size=64),
    }
    net = nets[kind]()
    net.remember([pictures(2)])
    predictor = AnomalyPredictor(
        net, calibrated("features" if kind == "neighbours" else "published")
    )
    images = [photo(64, 64), photo(50, 90, seed=1), photo(128, 128, seed=2)]
    together = predictor.predict(images)
    assert [found.map.shape for found in together] == [(64, 64), (50, 90), (128, 128)]
    for image, found in zip(images, together, strict=True):
        assert same(predictor(image), found)
    assert all(map(same, predictor.predict(images[::-1]), together[::-1]))
    assert not net.training


def test_no_picture_is_no_inspection() -> None:
    assert brightness().predict([]) == []


@pytest.mark.parametrize("side", [8, 20])
def test_views_are_pictures_too(side: int) -> None:
    bgr = photo(side, side)
    rgb = bgr[..., ::-1]  # negative strides
    frozen = rgb.copy()
    frozen.flags.writeable = False
    assert same(brightness()(rgb), brightness()(rgb.copy()))
    assert same(brightness()(frozen), brightness()(rgb.copy()))
    assert same(brightness()(bgr[::-1, ::-1]), brightness()(bgr[::-1, ::-1].copy()))


@pytest.mark.parametrize(
    ("image", "what"),
    [
        (np.zeros((8, 8, 3), np.float32), r"float32 \(8, 8, 3\)"),
        (np.zeros((8, 8, 3), np.uint16), r"uint16 \(8, 8, 3\)"),
        (np.zeros((8, 8), np.uint8), r"uint8 \(8, 8\)"),
        (np.zeros((8, 8, 4), np.uint8), r"\(8, 8, 4\)"),
        (np.zeros((1, 8, 8, 3), np.uint8), r"\(1, 8, 8, 3\)"),
        (np.zeros((0, 8, 3), np.uint8), r"\(0, 8, 3\)"),
    ],
)
def test_other_arrays_are_refused(image: Any, what: str) -> None:
    with pytest.raises(ValueError, match=f"{what}; give uint8 H×W×3 in RGB order"):
        brightness().predict([photo(8, 8), image])


def test_an_uncalibrated_scorer_is_refused() -> None:
    with pytest.raises(ValueError, match="not calibrated"):
        AnomalyPredictor(Brightness(), Scorer())(photo(8, 8))


# --- loading


@pytest.fixture(scope="module")
def vit_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file({k: v.contiguous() for k, v in tiny_vit().net.state_dict().items()}, path)
    return path


def class_spec(class_path: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": init_args}


@pytest.fixture
def ear_checkpoint(vit_file: Path) -> tuple[Checkpoint, AnomalyPredictor]:
    """What `AnomalyTask.save` writes for a small EAR, and the predictor it must become again."""
    backbone = Backbone("vit_tiny_patch16_224", str(vit_file))
    arguments = {"unet": "tiny", "size": 64, "mask_grid": 4, "feature_grids": [6], "capacity": 30}
    net, scorer = EAR(backbone, **arguments), calibrated("fused")  # type: ignore[arg-type]
    with torch.no_grad():
        net.eval().remember([pictures(2)])
    state = {f"net.{k}": v for k, v in net.state_dict().items()}
    state |= {f"scorer.{k}": v for k, v in scorer.state_dict().items()}
    spec = class_spec("vision.backbones.Backbone", name=backbone.name, weights="auto", frozen=True)
    mask = class_spec("vision.anomaly.AttentionMask", keep=0.8)
    return {
        "visionmend": "anomaly",
        "state_dict": state,
        "hyper_parameters": {
            "net": class_spec("vision.anomaly.EAR", backbone=spec, mask=mask, **arguments),
            "loss": None,
            "scorer": class_spec("vision.anomaly.Scorer", smooth=1.0, smooth_features=1.0),
            "lr": 0.001,
            "_instantiator": "lightning.pytorch.cli.instantiate_module",
        },
        "backbones": {
            "net.backbone": {
                "name": backbone.name,
                "source": backbone.source,
                "fingerprint": backbone.fingerprint,
            }
        },
    }, AnomalyPredictor(net, scorer)


def brightness_checkpoint(class_path: str, **init_args: Any) -> Checkpoint:
    """A checkpoint without a backbone, cheap to load, whose net is what the test says."""
    state = {f"scorer.{k}": v for k, v in Scorer().state_dict().items()}
    state["scorer.chosen"] = torch.tensor(0)
    hyper = {"net": class_spec(class_path, **init_args), "scorer": None}
    return {"state_dict": state, "hyper_parameters": hyper, "backbones": {}}


def saved(tmp_path: Path, content: Any) -> Path:
    torch.save(content, tmp_path / "model.ckpt")
    return tmp_path / "model.ckpt"


def refusal(path: Path, **options: Any) -> str:
    """The message with which `load` refuses a file: one line that names it."""
    with pytest.raises(CheckpointError) as caught:
        load(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.slow
def test_round_trip(ear_checkpoint: tuple[Checkpoint, AnomalyPredictor], tmp_path: Path) -> None:
    checkpoint, original = ear_checkpoint
    torch.manual_seed(99)  # what a new net draws must not matter
    loaded = load(saved(tmp_path, checkpoint))
    image = photo(70, 50)
    assert same(loaded(image), original(image))
    assert isinstance(loaded.net, EAR)
    assert not loaded.net.training
    assert len(loaded.net.neighbours.memories[0].bank) == 30
    assert len(loaded.fingerprint) == 16
    assert load(str(tmp_path / "model.ckpt")).fingerprint == loaded.fingerprint


def test_a_changed_detector_has_another_fingerprint(tmp_path: Path) -> None:
    checkpoint = brightness_checkpoint(f"{__name__}.Brightness")
    trust = (f"{__name__}.",)
    first = load(saved(tmp_path, checkpoint), trust=trust).fingerprint
    checkpoint["state_dict"]["scorer.threshold"] = torch.tensor(0.1)
    assert load(saved(tmp_path, checkpoint), trust=trust).fingerprint != first


@pytest.mark.slow
def test_other_weights_of_the_backbone_are_refused(
    ear_checkpoint: tuple[Checkpoint, AnomalyPredictor], changed_file: Path, tmp_path: Path
) -> None:
    checkpoint, _ = ear_checkpoint
    checkpoint["backbones"]["net.backbone"]["source"] = str(changed_file)
    message = refusal(saved(tmp_path, checkpoint))
    assert "was trained on other weights of vit_tiny_patch16_224" in message
    changed_file.unlink()
    assert "changed.safetensors: no such file" in refusal(tmp_path / "model.ckpt")


class Pair(Detector):
    """Two backbones of one name, the second of which may have been trained."""

    def __init__(self, first: Backbone, second: Backbone) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.size = self.input_size = 32


def pair_checkpoint(first: Backbone, second: Backbone) -> Checkpoint:
    """What `AnomalyTask.save` writes for a `Pair`."""
    specs = {
        name: class_spec("vision.backbones.Backbone", name=b.name, weights="hub", frozen=b.frozen)
        for name, b in (("first", first), ("second", second))
    }
    checkpoint = brightness_checkpoint(f"{__name__}.Pair", **specs)
    state = Pair(first, second).state_dict()
    checkpoint["state_dict"] |= {f"net.{key}": tensor for key, tensor in state.items()}
    checkpoint["backbones"] = {
        f"net.{name}": {"name": b.name, "source": b.source, "fingerprint": b.fingerprint}
        for name, b in (("first", first), ("second", second))
        if b.frozen
    }
    return checkpoint


@pytest.fixture
def changed_file(tmp_path: Path) -> Path:
    """Other weights of the same network."""
    state = {k: v.clone() for k, v in tiny_vit().net.state_dict().items()}
    state["cls_token"] += 1e-3
    save_file(state, tmp_path / "changed.safetensors")
    return tmp_path / "changed.safetensors"


@pytest.mark.slow
def test_two_backbones_of_one_name(vit_file: Path, changed_file: Path, tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224"
    pair = (Backbone(name, str(vit_file)), Backbone(name, str(changed_file)))
    path = saved(tmp_path, pair_checkpoint(*pair))
    net: Any = load(path, trust=(f"{__name__}.",)).net
    assert net.first.fingerprint == pair[0].fingerprint
    assert net.second.fingerprint == pair[1].fingerprint != pair[0].fingerprint


@pytest.mark.slow
def test_a_trained_backbone_is_in_the_checkpoint(
    vit_file: Path, changed_file: Path, tmp_path: Path
) -> None:
    name = "vit_tiny_patch16_224"
    pair = (Backbone(name, str(vit_file)), Backbone(name, str(changed_file), frozen=False))
    with torch.no_grad():
        pair[1].net.norm.bias.add_(1)  # as training does
    path = saved(tmp_path, pair_checkpoint(*pair))
    changed_file.unlink()  # what it began from is not needed any more
    net: Any = load(path, trust=(f"{__name__}.",)).net
    assert torch.equal(net.second.net.norm.bias, pair[1].net.norm.bias)
    assert torch.equal(net.second.net.cls_token, pair[1].net.cls_token)


def test_a_false_alarm_rate_of_ones_own(tmp_path: Path) -> None:
    checkpoint = brightness_checkpoint(f"{__name__}.Brightness")
    scorer = Scorer()
    scorer.set_threshold("published", torch.linspace(0, 1, 400))
    checkpoint["state_dict"] = {f"scorer.{k}": v for k, v in scorer.state_dict().items()}
    path, trust = saved(tmp_path, checkpoint), (f"{__name__}.",)
    strict, loose = load(path, trust=trust), load(path, false_alarms=0.2, trust=trust)
    assert strict.scorer.threshold > loose.scorer.threshold
    assert strict.fingerprint != loose.fingerprint  # results of the one are none of the other
    image = np.full((8, 8, 3), 230, np.uint8)
    assert (strict(image).verdict, loose(image).verdict) == ("good", "defect")
    with pytest.raises(ValueError, match=r"false_alarms=0\.9: give a share"):
        load(path, false_alarms=0.9, trust=trust)
    message = "is for `inspect` and takes no scale, ensemble; leave out all but false_alarms"
    assert message in refusal(path, trust=trust, scale=2, ensemble=True, tile=None)


@pytest.mark.slow
def test_tensors_that_do_not_fit_are_refused(
    ear_checkpoint: tuple[Checkpoint, AnomalyPredictor], tmp_path: Path
) -> None:
    checkpoint, _ = ear_checkpoint
    state = checkpoint["state_dict"]
    bank = state["net.neighbours.memories.0.bank"]
    state["net.neighbours.memories.0.bank"] = bank[:, :7]
    assert "size mismatch for neighbours.memories.0.bank" in refusal(saved(tmp_path, checkpoint))
    state["net.neighbours.memories.0.bank"] = bank
    del state["net.unet.head.bias"]
    assert 'Missing key(s) in state_dict: "unet.head.bias"' in refusal(saved(tmp_path, checkpoint))


def test_training_that_did_not_end_is_refused(tmp_path: Path) -> None:
    checkpoint = brightness_checkpoint("vision.anomaly.RIAD", unet="tiny")
    net = RIAD(unet="tiny")
    checkpoint["state_dict"] |= {f"net.{k}": v for k, v in net.state_dict().items()}
    checkpoint["state_dict"]["scorer.chosen"] = torch.tensor(-1)
    message = refusal(saved(tmp_path, checkpoint))
    assert "training did not come to its end" in message
    assert "fit --ckpt_path" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight": torch.zeros(2)}, r"weights of another kind \(keys \['weight'\]\)"),
        ({"a": 1, 2: "b"}, "weights of another kind"),
        ({"state_dict": {}, "hyper_parameters": {}}, "weights of another kind"),
        ({"state_dict": {}, "hyper_parameters": {}, "backbones": {}}, "no description of its net"),
        ({"state_dict": 1, "hyper_parameters": {}, "backbones": {}}, "weights of another kind"),
        ({"state_dict": {}, "hyper_parameters": {}, "backbones": 3}, "weights of another kind"),
        (
            {"state_dict": {}, "hyper_parameters": {"net": {}}, "backbones": {"net.backbone": {}}},
            "does not say which weights its backbone had",
        ),
        ([torch.zeros(2)], "holds no checkpoint"),
        (torch.zeros(2), "holds no checkpoint"),
    ],
)
def test_weights_of_another_kind(content: Any, message: str, tmp_path: Path) -> None:
    assert re.search(message, refusal(saved(tmp_path, content)))


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    assert "no such file; give the model.ckpt of a run" in refusal(path)
    assert "is a folder" in refusal(tmp_path)
    for content in (b"", b"a text\n", b"PK\x03\x04 and no more"):
        path.write_bytes(content)
        assert "not a checkpoint, or a truncated one" in refusal(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_checkpoint(share: float, tmp_path: Path) -> None:
    path = saved(tmp_path, brightness_checkpoint(f"{__name__}.Brightness"))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "truncated" in refusal(path)


def test_a_damaged_checkpoint(tmp_path: Path) -> None:
    path = saved(tmp_path, brightness_checkpoint(f"{__name__}.Brightness"))
    content = bytearray(path.read_bytes())
    content[60:400] = bytes(340)
    path.write_bytes(content)
    assert "damaged" in refusal(path)


# --- security


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_pickle_is_not_executed(as_zip: bool, tmp_path: Path) -> None:
    path, target = tmp_path / "model.ckpt", tmp_path / "exploded"
    content = {"state_dict": {}, "hyper_parameters": Bomb(target), "backbones": {}}
    torch.save(content, path, _use_new_zipfile_serialization=as_zip)
    message = refusal(path)
    assert "nothing of it was run" in message or "not a checkpoint" in message
    assert not target.exists()


def test_classes_from_elsewhere_are_refused_until_trusted(tmp_path: Path) -> None:
    path = saved(tmp_path, brightness_checkpoint(f"{__name__}.Brightness", size=16))
    message = refusal(path)
    assert f"names the class {__name__}.Brightness" in message
    assert f"--trust {__name__} (in Python trust=('{__name__}.',))" in message
    predictor = load(path, trust=(f"{__name__}.",))
    assert predictor.net.input_size == 16
    assert predictor(photo(9, 9)).map.shape == (9, 9)


def test_a_class_from_elsewhere_deeper_down(tmp_path: Path) -> None:
    mask = class_spec("torch.nn.Linear", in_features=1, out_features=1)
    path = saved(tmp_path, brightness_checkpoint("vision.anomaly.RIAD", unet=mask))
    assert "names the class torch.nn.Linear" in refusal(path)


@pytest.mark.parametrize(
    "class_path",
    [
        "vision.cli.main",  # a function of ours
        "vision.run.weights.Path",  # a class of others in a module of ours
        "vision.run.predictor.Inspection",  # a class of ours that is no net
        "visionary.Net",
        "data_stealer.Net",
        "os.system",
        "",
    ],
)
def test_only_nets_of_ours_are_built(
    class_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Any] = []
    monkeypatch.setattr("vision.cli.main", called.append)
    path = saved(tmp_path, brightness_checkpoint(class_path))
    assert f"names the class {class_path}, which is no net of ours" in refusal(path)
    assert not called


@pytest.mark.parametrize(
    "spec",
    [
        class_spec("vision.anomaly.Gone"),
        class_spec("vision.gone.Net"),
        class_spec("vision.anomaly.RIAD", colour="red"),
        class_spec("vision.anomaly.EAR"),
    ],
)
def test_nets_that_this_version_cannot_build(spec: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = brightness_checkpoint("")
    checkpoint["hyper_parameters"]["net"] = spec
    assert "cannot be built by this version" in refusal(saved(tmp_path, checkpoint))


@pytest.mark.parametrize("spec", [None, "EAR", {"name": "EAR"}, class_spec("vision.anomaly.UNet")])
def test_what_describes_no_detector(spec: Any, tmp_path: Path) -> None:
    checkpoint = brightness_checkpoint("")
    checkpoint["hyper_parameters"]["net"] = spec
    assert "describes no detector" in refusal(saved(tmp_path, checkpoint))


def test_wrong_arguments_keep_their_own_message(tmp_path: Path) -> None:
    path = saved(tmp_path, brightness_checkpoint("vision.anomaly.RIAD", size=60))
    assert "size=60: must divide" in refusal(path)
    backbone = class_spec("vision.backbones.Backbone", name="vit_tinny")
    path = saved(tmp_path, brightness_checkpoint("vision.anomaly.EAR", backbone=backbone))
    assert "backbone vit_tinny: timm has no such model" in refusal(path)
