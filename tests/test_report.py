"""Overlays and the HTML report."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.images import write_jpeg
from vision.report.html import write_report
from vision.report.overlay import heat, overlay


class Page(HTMLParser):
    """The tags of a page, and its text without styles and scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_data(self, data):
        if self.inside not in ("style", "script"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def ok(name: str, score: float, **more: Any) -> dict:
    return {
        "input": name,
        "status": "ok",
        "error": None,
        "outputs": [f"{name}.map.png", f"{name}.overlay.jpg"],
        "score": score,
        "verdict": "defect" if score >= 0.5 else "good",
    } | more


def failed(name: str, error: str) -> dict:
    return {"input": name, "status": "error", "error": error, "outputs": []}


def report(tmp_path: Path, rows: list[dict], **options: Any) -> tuple[str, Page]:
    write_report(tmp_path / "report.html", rows, out=tmp_path, **options)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    return text, Page(text)


def with_thumbnails(tmp_path: Path, row: dict) -> dict:
    row["thumbnails"] = [f"{row['input']}.{i}.jpg" for i in range(3)]
    for name in row["thumbnails"]:
        write_jpeg(tmp_path / name, np.full((8, 8, 3), 90, np.uint8))
    return row


def test_heat_grows_brighter_with_the_map() -> None:
    colours = heat(np.linspace(0, 1, 11, dtype=np.float32)[None])
    assert (colours.shape, colours.dtype) == ((1, 11, 3), np.uint8)
    grey = cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY)[0].astype(int)
    assert (np.diff(grey) > 0).all()
    middle = colours[0, 5]
    assert middle[0] > middle[2], "RGB: the middle of Inferno is red, not blue"


def test_overlay_leaves_a_good_picture_alone_and_outlines_a_defect() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    map = np.full((60, 80), 0.2, np.float32)
    assert (overlay(rgb, map) == rgb).all()
    map[20:40, 30:50] = 0.9
    result = overlay(rgb, map)
    assert (result[:10] == rgb[:10]).all()
    assert (result[20, 35:45] > 200).all(), "the outline runs along the region's border"
    assert (result[25:35, 35:45] != rgb[25:35, 35:45]).any()


def test_overlay_of_tall_pictures_has_no_seams() -> None:
    rgb = np.full((1300, 8, 3), 100, np.uint8)
    result = overlay(rgb, np.full((1300, 8), 0.45, np.float32))
    assert (result == result[0, 0]).all()


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_overlay_takes_any_size(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    before = rgb.copy()
    result = overlay(rgb, rng.random((height, width), dtype=np.float32))
    assert (result.shape, result.dtype) == (rgb.shape, np.uint8)
    assert (rgb == before).all(), "the input stays as it is"


def test_overlay_refuses_a_map_of_another_size() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        overlay(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.float32))


def test_the_report_is_self_contained(tmp_path: Path) -> None:
    rows = [with_thumbnails(tmp_path, ok(f"{i}.png", i / 5)) for i in range(5)]
    text, page = report(tmp_path, rows)
    assert "http:" not in text
    assert "https:" not in text
    assert len(page.all("img")) == 15
    for _, attributes in page.tags:
        assert (attributes.get("src") or "data:").startswith("data:")
        assert (attributes.get("href") or "#").startswith(("#", "./"))
    assert not page.all("link")
    assert "url(" not in text
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "script-src 'sha256-" in policy


def test_the_report_counts_sorts_and_lists_failures(tmp_path: Path) -> None:
    rows = [ok("low.png", 0.1), ok("high.png", 0.9), failed("bad.png", "bad.png: is empty; copy")]
    skipped = {"input": "notes.txt", "status": "skipped", "error": "no picture", "outputs": []}
    _, page = report(tmp_path, [*rows, skipped], title="Line 3")
    kinds = [a["data-kind"] for _, a in page.tags if "data-kind" in a]
    assert kinds == ["defect", "good", "failed", "skipped"]
    for words in ("Line 3", "is empty; copy", "notes.txt", "no picture", "0.900", "0.100"):
        assert words in page.text
    text = " ".join(page.text.split())
    assert "Inspected2" in text
    assert "Defect1" in text
    assert len(page.all("rect")) == 2


def test_only_the_highest_scores_have_pictures(tmp_path: Path) -> None:
    rows = [with_thumbnails(tmp_path, ok(f"{i}.png", i / 10)) for i in range(10)]
    _, page = report(tmp_path, rows, pictures=3)
    names = [a["data-name"] for a in page.all("article")]
    assert names == ["9.png", "8.png", "7.png"]
    assert len(page.all("img")) == 9
    assert [a["data-name"] for a in page.all("tr")[1:]] == [f"{i}.png" for i in range(6, -1, -1)]
    assert "3 highest of 10" in page.text


EVIL = [
    "<img src=x onerror=alert(1)>.png",
    '"><script>alert(1)</script>.png',
    "' onmouseover='alert(1).png",
    "javascript:alert(1).png",
    "{{ 7*7 }}{% raw %}.png",
    "a&amp;b#c?d%41.png",
    "bidi\u202egnp.exe",
    "new\nline.png",
    "not-utf8-\udcff.png",
]


@pytest.mark.parametrize("name", EVIL)
def test_names_and_errors_are_escaped(tmp_path: Path, name: str) -> None:
    bad = failed(name, f"{name}: broken")
    _, page = report(tmp_path, [ok(name, 0.7), ok(name, 0.3), bad], pictures=1, title=name)
    tags = {tag for tag, _ in page.tags}
    assert len(page.all("script")) == 1
    assert "img" not in tags
    assert not any(key.startswith("on") for _, a in page.tags for key in a)
    links = [a["href"] for a in page.all("a")]
    assert links
    for link in links:
        assert link is not None
        assert re.fullmatch(r"\./[\w.~/%-]+", link, re.ASCII)
    if name.isprintable():
        assert name in page.text
        assert f"./{name}.map.png" in {unquote(str(link)) for link in links}


def test_a_rounded_score_stays_on_its_side_of_the_threshold(tmp_path: Path) -> None:
    _, page = report(tmp_path, [ok("a.png", 0.49996), ok("b.png", 0.5)])
    assert "0.49996" in page.text
    assert "0.500" in page.text


def test_missing_previews_and_an_empty_run_still_make_a_page(tmp_path: Path) -> None:
    _, page = report(tmp_path, [ok("a.png", 0.7, thumbnails=["gone.jpg"] * 3)])
    assert page.text.count("no preview") == 3
    _, page = report(tmp_path, [])
    assert "no scores" in page.text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html"]
