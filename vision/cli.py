"""The command line: `train.py`, `infer.py` and the console script `mend` all end here."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from vision import __version__

OK, SOME_FAILED, WRONG_CALL = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """`mend train fit|validate|test …` and `mend inspect|doctor …`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["train"]:
        return train(argv[1:])
    return infer(argv, prog="mend")


def train(argv: Sequence[str] | None = None) -> int:
    """`fit | validate | test` by LightningCLI; exit status 2 for a mistake of the caller's."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from vision.tasks.training import run_cli

    _log_to_stderr()
    try:
        run_cli(sys.argv[1:] if argv is None else argv)
    except (ValueError, OSError, MisconfigurationException) as error:
        return _refuse(error)
    except RuntimeError as error:
        if "Early stopping conditioned on" not in str(error):  # a misspelt metric is the caller's
            raise
        return _refuse(error)
    return OK


def infer(argv: Sequence[str] | None = None, prog: str = "infer.py") -> int:
    """`inspect | doctor`; exit status 0 all done, 1 some inputs failed, 2 the call is wrong."""
    parser = _Parser(prog, description="Run trained nets over pictures.")
    parser.add_argument("--version", action="version", version=f"visionmend {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_inspect(commands.add_parser("inspect", help="find defects in pictures of parts"))
    commands.add_parser("doctor", help="say what works on this machine, and what is missing")
    if prog == "mend":
        commands.add_parser("train", help="train, validate or test (mend train --help)")
    arguments = parser.parse_args(argv)
    _log_to_stderr()
    if arguments.command == "doctor":
        from vision.run.doctor import doctor

        return doctor()
    try:
        return _inspect(arguments)
    except (ValueError, OSError) as error:
        return _refuse(error)


class _Parser(argparse.ArgumentParser):
    """Errors in one line, like all of ours."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(WRONG_CALL)


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    from data.images import MAX_PIXELS

    parser.add_argument("input", nargs="+", help="files, folders, globs or videos")
    parser.add_argument("-o", "--out", required=True, type=Path, help="folder for the results")
    parser.add_argument("--weights", required=True, help="model.ckpt of a training run")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")
    parser.add_argument(
        "--false-alarms",
        type=float,
        metavar="SHARE",
        help="share of good parts that may be called defective (as trained, 0.01 by default)",
    )
    parser.add_argument("--batch-size", type=int, default=8, help="pictures at a time (8)")
    parser.add_argument("--workers", type=int, default=2, help="reading and writing threads (2)")
    parser.add_argument("--max-pixels", type=int, default=MAX_PIXELS, help=f"({MAX_PIXELS})")
    parser.add_argument(
        "--report-pictures", type=int, default=500, help="pictures shown in report.html (500)"
    )
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package of yours whose nets the weights may name; may be given again",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")


def _inspect(arguments: argparse.Namespace) -> int:
    least = {"batch_size": 1, "workers": 1, "max_pixels": 1, "report_pictures": 0}
    for name, value in least.items():
        if (given := getattr(arguments, name)) < value:
            raise ValueError(f"--{name.replace('_', '-')} {given}: give {value} or more")
    from vision.run.engine import run
    from vision.run.inspect import InspectJob
    from vision.run.sources import find
    from vision.run.weights import load

    find(arguments.input, arguments.out)  # a wrong call is told before seconds of loading
    device = _device(arguments.device)
    predictor = load(
        arguments.weights,
        device=device,
        false_alarms=arguments.false_alarms,
        trust=tuple(f"{package}." for package in arguments.trust),
    )
    job = InspectJob(predictor, report_pictures=arguments.report_pictures)
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
        f"{summary.done} inspected, {summary.skipped_done} done before, {summary.failed} failed,"
        f" {summary.skipped} skipped, {summary.seconds:.1f} s"
    )
    for path in summary.outputs:
        print(path)
    return SOME_FAILED if summary.failed else OK


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {name}: {reason}; use --device cpu") from error
    return name


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
