"""The command line: `train.py`, `infer.py` and the console script `mend` all end here."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vision import __version__
from vision.run.memory import keep_freed_memory
from vision.run.shipped import DEFAULTS, ENLARGE

if TYPE_CHECKING:
    from vision.run.engine import Job

OK, SOME_FAILED, WRONG_CALL, INTERRUPTED = 0, 1, 2, 130
TRAIN_USAGE = """usage: train.py {fit,validate,test} --config RECIPE [--data.root DIR] [--KEY VALUE]

  fit       learn, and write RUN/model.ckpt; a detector of defects gets its threshold too
  validate  on held-out pictures: --ckpt_path RUN/last.ckpt
  test      AUROC and AU-PRO, PSNR and SSIM, or F1 and errors of joints and surfaces:
            --ckpt_path RUN/model.ckpt

What is trained, the recipe's `task` says: inspect, restore, adversarial or mesh.
`train.py fit --task restore --help` lists every key of such a recipe."""


def main(argv: Sequence[str] | None = None) -> int:
    """`mend train fit|validate|test …` and `mend inspect|restore|mesh|doctor …`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["train"]:
        return train(argv[1:])
    return infer(argv, prog="mend")


def train(argv: Sequence[str] | None = None) -> int:
    """`fit | validate | test` by LightningCLI; exit status 2 for a mistake of the caller's."""
    argv = list(sys.argv[1:] if argv is None else argv)
    # At once, for what follows takes seconds to import.
    if not argv:
        return _refuse(ValueError("nothing to do; say fit,validate,test (train.py --help)"))
    if argv[0] in ("-h", "--help"):
        print(TRAIN_USAGE)
        return OK
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from vision.tasks.training import CLI, run_cli

    _log_to_stderr()
    keep_freed_memory()
    try:
        run_cli(argv)
    except (KeyboardInterrupt, SystemExit) as ending:
        if getattr(ending, "code", 1) != 1:  # Lightning makes exit(1) of an interruption
            raise
        resumes = argv[0] == "fit" and CLI.last and CLI.last.exists()
        return _interrupted(f"go on with --ckpt_path {CLI.last}" if resumes else "start again")
    except (ValueError, OSError, MisconfigurationException) as error:
        return _refuse(error)
    except RuntimeError as error:
        if "Early stopping conditioned on" not in str(error):  # a misspelt metric is the caller's
            raise
        return _refuse(error)
    return OK


def infer(argv: Sequence[str] | None = None, prog: str = "infer.py") -> int:
    """`inspect | restore | mesh | doctor`.

    Exit status 0 all done, 1 some inputs failed, 2 the call is wrong.
    """
    parser = _Parser(prog, description="Run trained nets over pictures.")
    parser.add_argument("--version", action="version", version=f"visionmend {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_inspect(commands.add_parser("inspect", help="find defects in pictures of parts"))
    _add_restore(commands.add_parser("restore", help="enlarge or clean pictures"))
    _add_mesh(commands.add_parser("mesh", help="recover the people of pictures and videos"))
    check = commands.add_parser("doctor", help="say what works on this machine, what is missing")
    check.add_argument(
        "--body-models",
        metavar="DIR",
        type=Path,
        help="where smplx/SMPLX_NEUTRAL.npz and smpl/SMPL_NEUTRAL.pkl are (body_models)",
    )
    if prog == "mend":
        commands.add_parser("train", help="train, validate or test (mend train --help)")
    arguments = parser.parse_args(argv)
    _log_to_stderr()
    keep_freed_memory()
    if arguments.command == "doctor":
        from vision.run.doctor import doctor

        return doctor(arguments.body_models)
    try:
        return {"inspect": _inspect, "restore": _restore, "mesh": _mesh}[arguments.command](
            arguments
        )
    except KeyboardInterrupt:
        return _interrupted("what is done stays done; call again to go on")
    except (ValueError, OSError) as error:
        return _refuse(error)


class _Parser(argparse.ArgumentParser):
    """Errors in one line, like all of ours."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(WRONG_CALL)


def _add_common(parser: argparse.ArgumentParser, batch_size: int, default: str) -> None:
    """What every task of the batch engine takes."""
    from data.images import MAX_PIXELS

    parser.add_argument("input", nargs="+", help="files, folders, globs or videos")
    parser.add_argument("-o", "--out", required=True, type=Path, help="folder for the results")
    parser.add_argument(
        "--weights",
        metavar="WEIGHTS",
        help="model.ckpt of a run, published ones, or the name of some that come with the package"
        f" ({default})",
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")
    parser.add_argument(
        "--batch-size",
        type=int,
        default=batch_size,
        help=f"pictures read and written together ({batch_size}); nets take one at a time, or as"
        " many frames of a video as they were trained on",
    )
    parser.add_argument("--workers", type=int, default=2, help="reading and writing threads (2)")
    parser.add_argument("--max-pixels", type=int, default=MAX_PIXELS, help=f"({MAX_PIXELS})")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package of yours whose nets the weights may name; may be given again",
    )


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    _add_common(parser, batch_size=8, default="none; or --train-on")
    parser.add_argument(
        "--train-on",
        type=Path,
        metavar="FOLDER",
        help="good parts, one or more, to compare with: no weights are needed, and nothing is"
        " trained; what was seen is kept in OUT/detector.ckpt",
    )
    parser.add_argument(
        "--false-alarms",
        type=float,
        metavar="SHARE",
        help="share of good parts that may be called defective (as trained, 0.01 by default;"
        " with fewer than 40 parts to --train-on, what the worst of them stands for)",
    )
    parser.add_argument(
        "--report-pictures", type=int, default=500, help="pictures shown in report.html (500)"
    )


def _add_restore(parser: argparse.ArgumentParser) -> None:
    _add_common(parser, 1, f"{DEFAULTS['restore']}; with --scale N, that of N")
    parser.add_argument(
        "--tile",
        type=int,
        default=512,
        metavar="N",
        help="side in pixels above which a picture is restored in tiles (512); 0 takes it whole",
    )
    parser.add_argument(
        "--ensemble", action="store_true", help="mean over 8 mirrored and turned copies; 8 × time"
    )
    parser.add_argument(
        "--pooling",
        choices=("tile", "shared"),
        default="tile",
        help="of nets that pool over the whole picture: each tile for itself (default), or jointly"
        " by a second pass over the tiles",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="fp32 (default), or bf16: faster on GPUs made for it, and less exact",
    )
    parser.add_argument(
        "--scale",
        type=int,
        metavar="N",
        help="by how much to enlarge, where no weights are named; of a published RAT, whose"
        " checkpoint does not say it (1)",
    )
    parser.add_argument(
        "--regions",
        default="superpixels",
        metavar="WHENCE",
        help="of nets that attend within regions: superpixels (default), a folder of maps"
        " (<name>.nii.gz or .png), or sam:FOLDER with the weights of SAM",
    )
    parser.add_argument(
        "--no-before-after", action="store_true", help="write no picture of before beside after"
    )


def _add_mesh(parser: argparse.ArgumentParser) -> None:
    _add_common(parser, 8, DEFAULTS["mesh"])
    parser.add_argument(
        "--body-models",
        type=Path,
        metavar="DIR",
        help="where smplx/SMPLX_NEUTRAL.npz and smpl/SMPL_NEUTRAL.pkl are (body_models)",
    )
    parser.add_argument(
        "--threshold", type=float, metavar="SCORE", help="from which somebody counts as found"
    )
    camera = parser.add_mutually_exclusive_group()
    camera.add_argument(
        "--fov",
        type=float,
        metavar="DEGREES",
        help="what the camera sees along the picture's longer side (found by nets that can, or 60)",
    )
    camera.add_argument(
        "--focal", type=float, metavar="PIXELS", help="its focal length, in place of --fov"
    )
    parser.add_argument(
        "--size",
        type=int,
        metavar="PIXELS",
        help="side at which Multi-HMR for Anny sees pictures (as trained); the larger, the smaller"
        " the people that it finds",
    )
    parser.add_argument(
        "--detector",
        metavar="FILE",
        help="weights of a net that finds people in whole pictures, for a net that takes crops",
    )
    parser.add_argument(
        "--smooth", action="store_true", help="smooth the tracks of videos (1€ filter)"
    )


def _mesh(arguments: argparse.Namespace) -> int:
    from data.cameras import LONGEST, SHORTEST

    ranges = (("threshold", 0, 1), ("fov", 0, 180), ("focal", SHORTEST, LONGEST))
    for name, low, high in ranges:
        given = getattr(arguments, name)
        if given is not None and not low < given < high:
            raise ValueError(f"--{name} {given}: give a number between {low} and {high:.0f}")
    _check(arguments)
    from vision.run.mesh import MeshJob, MeshPredictor

    names = ("fov", "focal", "body_models", "threshold", "size")
    options = {name: getattr(arguments, name) for name in names}
    arguments.weights = arguments.weights or DEFAULTS["mesh"]
    if arguments.detector:
        detector = _load(arguments, weights=arguments.detector, **options)
        if not isinstance(detector, MeshPredictor):
            raise ValueError(f"{arguments.detector}: weights of another kind, not for `mesh`")
        options |= {"detector": detector, "threshold": None, "size": None}
    predictor = _load(arguments, **options)
    if not isinstance(predictor, MeshPredictor):
        raise ValueError(f"{arguments.weights}: weights of another kind, not for `mesh`")
    return _run(MeshJob(predictor, smooth=arguments.smooth), arguments, "recovered")


def _inspect(arguments: argparse.Namespace) -> int:
    if bool(arguments.weights) == bool(arguments.train_on):
        raise ValueError(
            "what shall the parts be compared with? Name a folder of good ones with --train-on, or"
            " --weights of a detector that train.py trained; one of the two"
        )
    _check(arguments)
    rate = arguments.false_alarms
    if rate is not None:
        from vision.anomaly.scoring import check_rate

        check_rate(rate, f"--false-alarms {rate:g}")
    if arguments.train_on:
        from vision.run.teach import learn, promise
        from vision.tasks.training import hush

        hush()
        target = arguments.out / "detector.ckpt"
        arguments.weights = learn(arguments.train_on, target, _device(arguments.device))
        if rate is None and not arguments.quiet and (told := promise(target)):
            print(told, file=sys.stderr)
    predictor = _load(arguments, false_alarms=rate)
    from vision.run.inspect import InspectJob
    from vision.run.predictor import AnomalyPredictor

    if not isinstance(predictor, AnomalyPredictor):
        raise ValueError(f"{arguments.weights}: weights of another kind, not for `inspect`")
    job = InspectJob(predictor, report_pictures=arguments.report_pictures)
    return _run(job, arguments, "inspected")


def _restore(arguments: argparse.Namespace) -> int:
    _check(arguments)
    if not arguments.weights:
        arguments.weights = ENLARGE.get(arguments.scale, DEFAULTS["restore"])
    predictor = _load(
        arguments,
        tile=arguments.tile,
        ensemble=arguments.ensemble,
        share_pooling=arguments.pooling == "shared",
        precision=arguments.precision,
        scale=arguments.scale,
    )
    from vision.run.regions import fingerprint, region_source
    from vision.run.restore import RestorationPredictor, RestoreJob

    if not isinstance(predictor, RestorationPredictor):
        raise ValueError(f"{arguments.weights}: weights of another kind, not for `restore`")
    regions = None
    if predictor.spec.regions:
        regions = region_source(arguments.regions, str(predictor.device))
    elif arguments.regions != "superpixels":
        raise ValueError(
            f"--regions {arguments.regions}: {type(predictor.net).__name__} does not look at region"
            " maps; leave it out"
        )
    job = RestoreJob(predictor, before_after=not arguments.no_before_after, regions=regions)
    job.fingerprint += f" regions {fingerprint(arguments.regions)}" if regions else ""
    return _run(job, arguments, "restored")


def _load(arguments: argparse.Namespace, weights: str | None = None, **options: Any) -> Any:
    from vision.run.weights import load

    trust = tuple(f"{package}." for package in arguments.trust)
    weights = weights or arguments.weights
    return load(weights, device=_device(arguments.device), trust=trust, **options)


def _check(arguments: argparse.Namespace) -> None:
    """A look at everything that can be wrong before seconds of loading.

    Raises:
        ValueError: options out of range, inputs or an output that cannot be used.
    """
    least = {
        "batch_size": 1,
        "workers": 1,
        "max_pixels": 1,
        "report_pictures": 0,
        "tile": 0,
        "scale": 1,
        "size": 1,
    }
    for name, value in least.items():
        given = getattr(arguments, name, None)
        if given is not None and given < value:
            raise ValueError(f"--{name.replace('_', '-')} {given}: give {value} or more")
    from vision.run.sources import find

    find(arguments.input, arguments.out)


def _run(job: Job, arguments: argparse.Namespace, done: str) -> int:
    """The job through the batch engine; what became of the inputs is said in a line."""
    from vision.run.engine import run

    summary = run(
        job,
        arguments.input,
        arguments.out,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        max_pixels=arguments.max_pixels,
        progress=not arguments.quiet,
    )
    print(
        f"{summary.done} {done}, {summary.skipped_done} done before, {summary.failed} failed,"
        f" {summary.skipped} skipped, {summary.seconds:.1f} s"
    )
    for path in summary.outputs:
        print(path)
    for error in summary.errors:
        print(f"error: {error}", file=sys.stderr)
    return SOME_FAILED if summary.failed else OK


def _device(name: str) -> str:
    import torch

    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _interrupted(cure: str) -> int:
    print(f"interrupted; {cure}", file=sys.stderr)
    return INTERRUPTED


def _refuse(error: Exception) -> int:
    print(f"error: {_line(error)}", file=sys.stderr)
    return WRONG_CALL


def _line(error: Exception) -> str:
    """What is wrong in one line, without the traceback that a reading process hands over."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}; check the path, its permissions and the disk"
    text = str(error).strip()
    if "\nOriginal Traceback" in text:
        text = text.splitlines()[-1].partition(": ")[2]
    return " ".join(text.split())


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("vision").setLevel(logging.INFO)


if __name__ == "__main__":
    raise SystemExit(main())
