"""The batch engine through its public interface, with a predictor that only looks at pixels."""

import csv
import json
import os
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from data.images import Picture, read
from vision.run import engine, reading
from vision.run.engine import Summary, run
from vision.run.inspect import Inspection, InspectJob
from vision.run.manifest import Manifest
from vision.run.sources import Source, find


class FakePredictor:
    """The map is the red channel; what goes wrong can be chosen by the size of the picture."""

    fingerprint = "fake-1"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def predict(self, images: list[NDArray[np.uint8]]) -> list[Inspection]:
        self.batches.append(len(images))
        if any(image.shape[:2] == (13, 13) for image in images):
            raise RuntimeError("thirteen\nis unlucky")
        maps = [image[..., 0].astype(np.float32) / np.float32(256) for image in images]
        return [Inspection(float(m.max()), "defect" if m.max() >= 0.5 else "good", m) for m in maps]


@pytest.fixture(autouse=True)
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture(path: str | Path, red: int = 90, size: int = 16) -> Path:
    """A picture whose score is red / 256."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    bgr = np.zeros((size, size, 3), np.uint8)
    bgr[size // 2, size // 2, 2] = red
    path.write_bytes(cv2.imencode(".png", bgr)[1].tobytes())
    return path


def video(path: str, frames: int = 6) -> None:
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 5, (32, 24))
    for i in range(frames):
        writer.write(np.full((24, 32, 3), 40 * i % 240, np.uint8))
    writer.release()


def inspect(*inputs: str, out: str = "out", **options: Any) -> Summary:
    predictor = options.pop("predictor", FakePredictor())
    return run(InspectJob(predictor), inputs, out, progress=False, **options)


def rows(out: str = "out") -> list[dict]:
    return [json.loads(line) for line in Path(out, "manifest.jsonl").read_text().splitlines()]


def stems(*inputs: str, out: str = "out") -> list[str]:
    return [source.relative.as_posix() for source in find(inputs, Path(out))]


# Sources


def test_a_folder_is_mirrored_below_out() -> None:
    for name in ("a.png", "deep/er/b.png", "deep/c.png"):
        picture(Path("parts", name))
    summary = inspect("parts")
    assert (summary.done, summary.failed) == (3, 0)
    for stem in ("a", "deep/er/b", "deep/c"):
        assert Path("out", f"{stem}.map.png").is_file()
        assert Path("out", f"{stem}.overlay.jpg").is_file()
    assert [row["input"] for row in rows()] == [
        "parts/a.png",
        "parts/deep/c.png",
        "parts/deep/er/b.png",
    ]


def test_outputs_of_different_inputs_never_collide() -> None:
    for name in ("p/a.png", "p/a.jpg", "p/A.PNG", "q/a.png", "p/b.png", "p/a.png.png"):
        picture(name)
    names = stems("p/a.png", "p/a.jpg", "p/A.PNG", "q/a.png", "p/b.png", "p/a.png.png")
    assert len({name.casefold() for name in names}) == 6
    assert names[:2] == ["a.png", "a.jpg"]
    assert names[4] == "b"


def test_several_folders_keep_their_own_names() -> None:
    picture("x/good/1.png"), picture("y/good/1.png"), picture("x/bad/1.png")
    assert stems("x/good", "x/bad", "y/good") == ["good/1", "bad/1", "good-2/1"]


def test_however_a_folder_is_named_it_counts_once() -> None:
    picture("x/1.png"), picture("x/2.png")
    assert stems("x", str(Path("x").absolute()), "x/", "x/../x/1.png") == ["1", "2"]


def test_outputs_of_an_earlier_call_are_not_overwritten() -> None:
    picture("x/1.png", red=10), picture("y/1.png", red=200)
    inspect("x/1.png")
    before = Path("out/1.map.png").read_bytes()
    inspect("y/1.png")
    assert Path("out/1.map.png").read_bytes() == before
    assert [row["input"] for row in rows()] == ["x/1.png", "y/1.png"]
    assert rows()[1]["outputs"][0] == "1.png.map.png"


@given(
    st.lists(st.sampled_from(["a", "A", "b", "a.png", "b-2"]), min_size=1, max_size=5),
    st.lists(st.sampled_from([".png", ".jpg", ".mp4", ""]), min_size=5, max_size=5),
)
def test_output_stems_are_unique_for_any_names(folders: list[str], suffixes: list[str]) -> None:
    inputs = [f"{d}/{f}{s}" for d, s in zip(folders, suffixes, strict=False) for f in ("a", "b")]
    for name in inputs:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    names = [name.casefold() for name in stems(*inputs)]
    assert len(names) == len(set(inputs)) == len(set(names))


def test_globs_mirror_below_their_fixed_part_and_skip_out() -> None:
    picture("parts/x/1.png"), picture("parts/y/1.png"), picture("parts/out/old.png")
    assert stems("parts/**/*.png", out="parts/out") == ["x/1", "y/1"]
    assert stems("parts/*", out="parts/out") == ["x/1", "y/1"]
    picture("odd[1].png")
    assert stems("odd[1].png") == ["odd[1]"]


def test_hidden_files_and_out_inside_input_are_left_out() -> None:
    picture("parts/a.png"), picture("parts/.hidden/b.png"), picture("parts/.c.png")
    assert inspect("parts", out="parts/out").done == 1
    again = inspect("parts", out="parts/out")
    assert (again.done, again.skipped_done) == (0, 1)


def test_linked_folders_are_followed_once() -> None:
    picture("real/sub/a.png")
    Path("real/loop").symlink_to("../real")
    Path("real/again").symlink_to("sub")
    picture("elsewhere/b.png")
    Path("real/other").symlink_to("../elsewhere")
    assert stems("real") == ["other/b", "sub/a"]
    assert stems("real/**/*.png") == ["other/b", "sub/a"]


def test_other_files_are_skipped_with_a_reason() -> None:
    picture("parts/a.png")
    Path("parts/notes.txt").write_text("hello")
    summary = inspect("parts")
    assert (summary.done, summary.skipped, summary.failed) == (1, 1, 0)
    assert rows()[1]["status"] == "skipped"
    assert ".txt" in rows()[1]["error"]


@pytest.mark.parametrize("name", ["Prüfteil 1.png", 'it\'s "a" part.png', "a b/ü,;.png", "名.png"])
def test_unusual_names(name: str) -> None:
    picture(Path("in", name))
    assert inspect("in").done == 1
    assert rows()[0]["input"] == f"in/{name}"
    assert all(Path("out", output).is_file() for output in rows()[0]["outputs"])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "no input"),
        (["nothere.png"], "nothere.png: does not exist"),
        (["no/*.png"], "matches no file"),
        (["empty"], "empty: no picture in this folder.*png"),
        (["full"], "full: is both the input and OUT"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_is_written(
    inputs: list[str], message: str
) -> None:
    Path("empty").mkdir()
    Path("empty/readme.txt").touch()
    picture("full/a.png")
    with pytest.raises(ValueError, match=message) as caught:
        inspect(*inputs, out="full")
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in Path("full").iterdir()) == ["a.png"]


def test_out_that_is_a_file_is_refused() -> None:
    picture("a.png")
    with pytest.raises(ValueError, match=r"a\.png: is not a folder"):
        inspect("a.png", out="a.png")


# Video


def test_video_frames_and_resume() -> None:
    video("clip.avi")
    summary = inspect("clip.avi", batch_size=4)
    assert (summary.done, summary.failed) == (6, 0)
    assert [row["input"] for row in rows()] == [f"clip.avi#{i}" for i in range(6)]
    assert rows()[5]["outputs"][0] == "clip.avi/frame_000005.map.png"
    assert rows()[5]["score"] == pytest.approx(200 / 256, abs=0.02)
    Path("out", rows()[2]["outputs"][0]).unlink()
    again = inspect("clip.avi", batch_size=4)
    assert (again.done, again.skipped_done) == (1, 5)
    assert sorted(Path("out").glob("clip*")) == [Path("out/clip.avi")]


@pytest.mark.parametrize("name", ["clip.avi", "7\u202fPM.avi"])  # messages quote the second
def test_frames_say_which_they_are(name: str) -> None:
    video(name, frames=3)
    (source,) = find([name], Path("out"), {})
    found = [picture for _, picture in reading.frames(source, lambda _: False, 1000)]
    assert [picture and picture.frame for picture in found] == [(source.input, i) for i in range(3)]


def test_damaged_videos_are_rows() -> None:
    video("clip.avi", frames=40)
    data = Path("clip.avi").read_bytes()
    Path("short.avi").write_bytes(data[: len(data) // 2])
    Path("text.mp4").write_text("no video")
    summary = inspect("text.mp4", "short.avi", "clip.avi")
    errors = [row["error"] for row in rows() if row["status"] == "error"]
    assert errors[0].startswith("text.mp4: cannot be read as a video")
    assert "clip.avi#39" in {row["input"] for row in rows()}
    assert summary.failed == len(errors) >= 1


# Failures


def test_one_corrupt_picture_does_not_stop_the_others() -> None:
    for i in range(5):
        picture(f"in/{i}.png")
    Path("in/2.png").write_bytes(Path("in/2.png").read_bytes()[:60])
    Path("in/3.png").unlink()
    Path("in/3.png").symlink_to("gone.png")
    summary = inspect("in", "missing.png", batch_size=2)
    assert (summary.done, summary.failed) == (3, 3)
    assert [row["status"] for row in rows()] == ["ok", "ok", "error", "error", "ok", "error"]
    for row in rows():
        assert row["status"] == "ok" or (row["input"] in row["error"] and "\n" not in row["error"])


def test_failed_inputs_are_tried_again_and_done_ones_are_not() -> None:
    picture("in/a.png"), picture("in/b.png")
    Path("in/b.png").write_bytes(b"")
    assert (inspect("in").done, inspect("in").failed) == (1, 1)
    picture("in/b.png")
    summary = inspect("in")
    assert (summary.done, summary.skipped_done, summary.failed) == (1, 1, 0)
    assert len(rows()) == 2


def test_another_fingerprint_or_a_changed_file_is_done_again() -> None:
    picture("in/a.png"), picture("in/b.png")
    inspect("in")
    other = FakePredictor()
    other.fingerprint = "fake-2"
    assert inspect("in", predictor=other).done == 2
    os.utime("in/a.png", (1, 1))
    summary = inspect("in", predictor=other)
    assert (summary.done, summary.skipped_done, len(rows())) == (1, 1, 2)


def test_what_a_call_does_not_name_stays_as_it_is() -> None:
    picture("a/good.png"), picture("b/other.png")
    Path("a/broken.png").touch()
    assert inspect("a").failed == 1
    other = FakePredictor()
    other.fingerprint = "fake-2"
    assert inspect("b", predictor=other).done == 1
    found = {row["input"]: row["status"] for row in rows()}
    assert found == {"a/good.png": "ok", "a/broken.png": "error", "b/other.png": "ok"}
    picture("c/good.png")  # its outputs must not take the place of those of a/good.png
    inspect("c", predictor=other)
    assert len({output for row in rows() for output in row["outputs"]}) == 6
    picture("a/broken.png")
    assert (inspect("a").done, inspect("a").skipped_done) == (1, 2)
    assert len(rows()) == 4


def test_only_the_guilty_picture_of_a_batch_fails() -> None:
    for i in range(4):
        picture(f"in/{i}.png", size=13 if i == 1 else 16)
    assert (inspect("in", batch_size=4).failed, len(rows())) == (1, 4)
    assert rows()[1]["error"] == "in/1.png: thirteen is unlucky"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("too much"),
        MemoryError("too much"),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"),
    ],
    ids=["CUDA", "MemoryError", "MPS", "cuBLAS"],
)
def test_out_of_memory_halves_the_batch(error: Exception) -> None:
    class Small(FakePredictor):
        def predict(self, images):
            self.batches.append(len(images))
            if len(images) > 2 or any(len(image) == 99 for image in images):
                raise error
            self.batches.pop()
            return super().predict(images)

    for i in range(16):
        picture(f"in/{i:02}.png", size=99 if i == 9 else 16)
    small = Small()
    summary = inspect("in", batch_size=8, predictor=small)
    assert (summary.done, summary.failed) == (15, 1)
    assert "does not fit into memory" in rows()[9]["error"]
    assert small.batches.count(8) == 1


def test_a_bug_in_the_job_stops_the_run() -> None:
    class Broken(FakePredictor):
        def predict(self, images):
            raise KeyError("a bug")

    picture("a.png")
    with pytest.raises(KeyError):
        inspect("a.png", predictor=Broken())


def test_an_output_that_cannot_be_written_is_a_row() -> None:
    picture("in/a.png"), picture("in/b.png")
    Path("out").mkdir()
    Path("out/a.map.png").mkdir()
    summary = inspect("in")
    assert (summary.done, summary.failed) == (1, 1)
    assert "in/a.png: its output" in rows()[0]["error"]


def test_scores_that_are_no_numbers_are_a_row() -> None:
    class Wild(FakePredictor):
        def predict(self, images):
            return [Inspection(float("nan"), "good", np.zeros(i.shape[:2], "f4")) for i in images]

    picture("a.png")
    assert inspect("a.png", predictor=Wild()).failed == 1
    assert "not a finite number" in rows()[0]["error"]


def test_max_pixels_is_an_error_row_with_its_cure() -> None:
    picture("a.png", size=20)
    assert inspect("a.png", max_pixels=100).failed == 1
    assert "--max-pixels" in rows()[0]["error"]


def test_interrupt_leaves_a_manifest_to_go_on_from() -> None:
    class Impatient(FakePredictor):
        def predict(self, images):
            if len(self.batches) == 2:
                end = time.monotonic() + 30
                # What waits to be written would be left out.
                while len([*Path("out").rglob("*.map.png")]) < 4 and time.monotonic() < end:
                    time.sleep(0.01)
                raise KeyboardInterrupt
            return super().predict(images)

    for i in range(8):
        picture(f"in/{i}.png")
    with pytest.raises(KeyboardInterrupt):
        inspect("in", batch_size=2, predictor=Impatient())
    assert [row["input"] for row in rows()] == [f"in/{i}.png" for i in range(4)]
    summary = inspect("in")
    assert (summary.done, summary.skipped_done) == (4, 4)


# Determinism and memory


def test_neither_batch_size_nor_workers_change_a_result() -> None:
    for i in range(9):
        picture(f"in/{i}.png", red=20 * i, size=10 + i)
    picture("in/5.png", size=13)

    def result(out: str, **options: Any) -> Any:
        inspect("in", out=out, **options)
        figures = [(r["input"], r["status"], r.get("score"), r["outputs"]) for r in rows(out)]
        maps = [p.read_bytes() for p in sorted(Path(out).rglob("*.map.png"))]
        return figures, maps, Path(out, "scores.csv").read_text()

    first = result("o1", batch_size=1, workers=1)
    assert first == result("o2", batch_size=4, workers=3)
    assert first == result("o3", batch_size=64, workers=2)


@pytest.mark.slow
@pytest.mark.parametrize(("pixels", "most"), [(10**9, 8), (3 * 256, 5)])
def test_read_ahead_is_bounded(monkeypatch: pytest.MonkeyPatch, pixels: int, most: int) -> None:
    alive, peak, lock = 0, 0, threading.Lock()

    def count(change: int) -> None:
        nonlocal alive, peak
        with lock:
            alive += change
            peak = max(peak, alive)

    def counting(path: Path, max_pixels: int) -> Picture:
        result = read(path, max_pixels)
        count(1)
        weakref.finalize(result, count, -1)
        return result

    monkeypatch.setattr(reading, "read", counting)
    monkeypatch.setattr(engine, "PIXELS_ALIVE", pixels)
    for i in range(40):
        picture(f"in/{i:02}.png")
    assert inspect("in", batch_size=4, workers=2).done == 40
    assert peak <= most


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"workers": 0}])
def test_impossible_options_are_refused(options: dict) -> None:
    picture("a.png")
    with pytest.raises(ValueError, match="must be 1 or more"):
        inspect("a.png", **options)


# Manifest and summaries


def test_rows_have_their_fields_and_outputs_hold_the_figures() -> None:
    picture("a.png", red=192)
    inspect("a.png")
    (row,) = rows()
    assert (row["status"], row["error"], row["run"]) == ("ok", None, "fake-1")
    assert (row["score"], row["verdict"]) == (0.75, "defect")
    assert (row["width"], row["height"]) == (16, 16)
    assert row["seconds"] > 0
    levels = read(Path("out", row["outputs"][0])).pixels
    assert levels.dtype == np.uint16
    assert levels.max() == round(0.75 * 65535)


def test_a_torn_last_line_is_dropped() -> None:
    picture("in/a.png"), picture("in/b.png")
    inspect("in")
    manifest = Path("out/manifest.jsonl")
    manifest.write_text(manifest.read_text()[:-30])
    summary = inspect("in")
    assert (summary.done, summary.skipped_done) == (1, 1)
    assert len(rows()) == 2


def test_a_foreign_manifest_is_not_overwritten() -> None:
    picture("a.png")
    Path("out").mkdir()
    Path("out/manifest.jsonl").write_text('{"file": "dataset"}\n{"file": "of somebody"}\n')
    with pytest.raises(ValueError, match="line 1 is not a row of a manifest"):
        inspect("a.png")
    assert "somebody" in Path("out/manifest.jsonl").read_text()
    Path("out/manifest.jsonl").write_text("my notes\n")
    with pytest.raises(ValueError, match="line 1 is not a row of a manifest"):
        inspect("a.png")
    assert Path("out/manifest.jsonl").read_text() == "my notes\n"


def test_the_manifest_of_another_job_is_not_touched() -> None:
    picture("parts/a.png")
    inspect("parts")
    job = InspectJob(FakePredictor())
    job.name = "restore"
    before = Path("out/manifest.jsonl").read_bytes()
    with pytest.raises(ValueError, match="out: holds what `inspect` made; choose another OUT"):
        run(job, ["parts"], "out", progress=False)
    assert Path("out/manifest.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "row",
    [
        {"input": "x", "status": "ok", "outputs": ["/etc/hostname"]},
        {"input": "x", "status": "ok", "thumbnails": ["../secret.txt", "a", "b"]},
        {"input": "x", "status": "ok", "outputs": "x.png"},
        {"input": "x", "status": "fine"},
        {"input": 5, "status": "ok"},
    ],
)
def test_rows_that_nobody_wrote(row: dict) -> None:
    picture("parts/a.png")
    Path("out").mkdir()
    Path("out/manifest.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match="line 1 is not a row of a manifest"):
        inspect("parts")


def test_a_row_without_a_score() -> None:
    picture("parts/a.png")
    Path("out").mkdir()
    Path("out/manifest.jsonl").write_text('{"input": "x", "status": "ok"}\n')
    with pytest.raises(ValueError, match="a row is not as `inspect` writes it"):
        inspect("parts")


def test_a_link_to_itself_is_a_row() -> None:
    picture("parts/a.png")
    Path("parts/loop").symlink_to("loop")
    Path("parts/loop.png").symlink_to("loop.png")
    summary = inspect("parts")
    assert (summary.done, summary.failed) == (1, 1)


@pytest.mark.parametrize(
    ("inputs", "out"),
    [
        (["x/*.png"], "x"),
        (["x/1.png", "x/1.map.png"], "x"),
        (["x", "y"], "."),
        (["x/1.png"], "x"),
        (["y/clip.avi", "out/clip.avi/frame_000000.png"], "out"),
    ],
)
def test_no_result_takes_the_place_of_an_input(inputs: list[str], out: str) -> None:
    for name in ("x/1.png", "x/1.map.png", "y/1.png", "out/clip.avi/frame_000000.png"):
        picture(name)
    video("y/clip.avi", 2)
    with pytest.raises(ValueError, match="choose another"):
        inspect(*inputs, out=out)


def test_a_pipe_is_no_video_to_wait_for() -> None:
    picture("parts/a.png")
    os.mkfifo("parts/pipe.mp4")
    assert inspect("parts").skipped == 1
    assert inspect("parts/pipe.mp4", "parts/a.png", out="other").failed == 1


def test_results_beside_the_folder_of_the_inputs() -> None:
    picture("x/1.png")
    assert inspect("x", out=".").done == 1
    assert Path("1.map.png").is_file()


def test_manifest_is_strict_json_and_streams(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "m", "run", "inspect")
    manifest.add({"input": "a", "status": "ok", "score": 0.5})
    with pytest.raises(ValueError):
        manifest.add({"input": "b", "status": "ok", "score": float("nan")})
    assert [row["input"] for row in manifest.rows()] == ["a"]
    assert not Manifest(tmp_path / "m", "other", "inspect").done("a")
    assert Manifest(tmp_path / "m", "run", "inspect").done("a")


def test_scores_csv_has_a_line_per_row() -> None:
    picture("in/a,b.png", red=128)
    Path("in/c.png").touch()
    summary = inspect("in")
    assert [path.name for path in summary.outputs] == ["scores.csv", "report.html"]
    with open("out/scores.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert first["input"] == "in/a,b.png"
    assert (float(first["score"]), first["verdict"]) == (0.5, "defect")
    assert (first["map"], first["overlay"]) == ("a,b.map.png", "a,b.overlay.jpg")
    assert "is empty" in second["error"]


def test_progress_lines_go_to_stderr_only(capsys: pytest.CaptureFixture[str]) -> None:
    picture("a.png")
    run(InspectJob(FakePredictor()), ["a.png"], "out")
    assert capsys.readouterr().out == ""


def test_a_source_without_frame_is_a_video_by_suffix() -> None:
    assert Source("a.MP4", Path("a.MP4"), Path("a")).is_video
    assert not Source("a.png", Path("a.png"), Path("a")).is_video
