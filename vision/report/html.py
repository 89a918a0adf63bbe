"""The inspection report: one HTML file that opens from disk, with no network and no neighbours."""

from __future__ import annotations

import base64
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from data.images import show

BINS = 40
"""Histogram bins over the scores' range [0, 1]."""

_VIEWS = ("Picture", "Map", "Overlay")
_LINKS = ("Map, 16 bit", "Overlay")


@dataclass(frozen=True, slots=True)
class _Item:
    """The part of a manifest row the report keeps in memory."""

    name: str
    kind: str  # defect | good | failed | skipped
    score: float = 0.0
    score_text: str = ""
    error: str = ""
    outputs: tuple[str, ...] = ()
    thumbnails: tuple[str, ...] = ()

    @property
    def links(self) -> list[tuple[str, str]]:
        """Label and address of the full-size outputs, relative to the report."""
        return [(label, _href(name)) for label, name in zip(_LINKS, self.outputs, strict=False)]


@dataclass(frozen=True)
class _Bar:
    """A bar of the histogram, in percent of width and height."""

    left: float
    width: float
    height: float
    kind: str
    label: str


def write_report(
    path: str | Path,
    rows: Iterable[Mapping[str, Any]],
    *,
    title: str = "Inspection report",
    threshold: float = 0.5,
    pictures: int = 500,
    out: str | Path,
) -> None:
    """Write the report of the manifest `rows` to `path`, which must lie directly in `out`.

    Rows need `input`, `status`, `error`, `outputs` (map, overlay); if ok, `score` in [0, 1) and
    `verdict` (good or defect); `thumbnails` (picture, map, overlay: small JPEG files below `out`)
    are embedded for the `pictures` highest scores, the other rows are a table. Text is escaped,
    scripts are allowed by hash only. The file is streamed and appears whole or not at all.
    """
    path, out = Path(path), Path(out)
    items = [_item(row, threshold) for row in rows]
    inspected = [item for item in items if item.kind in ("defect", "good")]
    inspected.sort(key=lambda item: (-item.score, item.name))
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["sha256"] = _sha256
    counts = Counter(item.kind for item in items)
    bars, peak = _histogram([item.score for item in inspected], threshold)
    stream = environment.get_template("inspection.html.j2").stream(
        title=title,
        threshold=threshold,
        counts={kind: counts[kind] for kind in ("defect", "good", "failed", "skipped")},
        inspected=len(inspected),
        bars=bars,
        peak=peak,
        cards=((item, list(_views(item, out))) for item in inspected[:pictures]),
        shown=len(inspected[:pictures]),
        others=inspected[pictures:],
        failed=[item for item in items if item.kind == "failed"],
        skipped=[item for item in items if item.kind == "skipped"],
    )
    stream.enable_buffering(64)
    partial = path.with_name(f".{path.name}.partial")
    # A file name may hold bytes that are no UTF-8; the page shows "?" and its links stay exact.
    with open(partial, "w", encoding="utf-8", errors="replace", newline="\n") as file:
        file.writelines(stream)
    os.replace(partial, path)


def _item(row: Mapping[str, Any], threshold: float) -> _Item:
    name = show(row["input"])
    error = (row["error"] or "").removeprefix(f"{name}: ")  # it stands below the name already
    if row["status"] != "ok":
        return _Item(name, "skipped" if row["status"] == "skipped" else "failed", error=error)
    return _Item(
        name,
        row["verdict"],
        row["score"],
        _score_text(row["score"], threshold),
        outputs=tuple(row["outputs"]),
        thumbnails=tuple(row.get("thumbnails", ())),
    )


def _score_text(score: float, threshold: float) -> str:
    """Three decimals, more where rounding would move the score across the threshold."""
    texts = (f"{score:.{digits}f}" for digits in range(3, 17))
    return next((t for t in texts if (float(t) >= threshold) == (score >= threshold)), str(score))


def _href(name: str) -> str:
    """A relative address; `./` and quoting keep a name like `javascript:…` a file name."""
    return "./" + quote(os.fsencode(name))


def _views(item: _Item, out: Path) -> Iterator[tuple[str, str | None, str | None]]:
    """Caption, embedded picture (None if its file is gone) and address of the full-size one."""
    thumbnails = item.thumbnails or (None,) * len(_VIEWS)
    addresses = (None, *(_href(name) for name in item.outputs))
    for caption, thumbnail, address in zip(_VIEWS, thumbnails, addresses, strict=False):
        file = out / thumbnail if thumbnail else None
        data = None
        if file and file.is_file():
            data = "data:image/jpeg;base64," + base64.b64encode(file.read_bytes()).decode()
        yield caption, data, address


def _histogram(scores: list[float], threshold: float) -> tuple[list[_Bar], int]:
    """The bars that are not empty, and the height of the highest in pictures."""
    counts = Counter(min(max(int(score * BINS), 0), BINS - 1) for score in scores)
    peak = max(counts.values(), default=0)
    bars = []
    for bin, count in sorted(counts.items()):
        low, high = bin / BINS, (bin + 1) / BINS
        bars.append(
            _Bar(
                left=round(100 * low + 0.2, 3),
                width=round(100 / BINS - 0.4, 3),
                height=round(max(100 * count / peak, 1.5), 3),  # a single picture stays visible
                kind="defect" if low >= threshold else "good",
                label=f"{low:.3f} to {high:.3f}: {count}",
            )
        )
    return bars, peak


def _sha256(text: str) -> str:
    """As a Content-Security-Policy names a script."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
