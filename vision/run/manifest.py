"""OUT/manifest.jsonl: one strict JSON row per input, on disk as soon as the input is finished."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, NamedTuple, TextIO

from data.images import show

Row = dict[str, Any]


class _Kept(NamedTuple):
    """What is remembered of an earlier row that stays."""

    line: int
    owner: str  # the input, for a frame its video
    stem: str  # of its outputs, for a frame the folder of all frames
    modified: float | None


class Manifest:
    """The rows of one OUT folder, for one `run` (fingerprint of weights and options) of a `job`.

    A row of an earlier call is `done` if it is ok, belongs to the same run and its outputs still
    exist. Those stay, and so does what a call says nothing about (`take`): failures, skipped files
    and results of other weights. All else is dropped when the manifest is opened for writing
    (`with`, or the first `add`), in one atomic step, so there is never more than one row per input.
    A last line torn by a crash is dropped as well; anything else that is no row is a ValueError,
    because the file is then not ours to rewrite, and so are rows of another job.
    """

    def __init__(self, out: str | Path, run: str, job: str) -> None:
        self.out, self.run, self.job = Path(out), run, job
        self.path = self.out / "manifest.jsonl"
        self._file: TextIO | None = None
        self._kept: dict[str, _Kept] = {}  # done
        self._earlier: dict[str, _Kept] = {}  # not done
        self._others: dict[str, _Kept] = {}  # of those, what this call says nothing about
        self._added: set[str] = set()
        self._named: set[str] = set()
        if os.path.lexists(self.out) and not self.out.is_dir():
            raise ValueError(f"{show(self.out)}: is not a folder; choose another OUT (-o)")
        for line, row in self._numbered():
            if row.get("job", job) != job:
                raise ValueError(
                    f"{show(self.out)}: holds what `{row['job']}` made; choose another OUT (-o)"
                )
            self._kept.pop(row["input"], None)
            self._earlier.pop(row["input"], None)
            owner, stem = row["input"], str(row.get("name", ""))
            if row.get("frame") is not None:
                owner, stem = owner.rpartition("#")[0], str(PurePath(stem).parent)
            kept = _Kept(line, owner, stem, row.get("modified"))
            if all((self.out / output).is_file() for output in row.get("outputs", [])):
                done = row["status"] == "ok" and row.get("run") == self.run
                (self._kept if done else self._earlier)[row["input"]] = kept

    @property
    def owners(self) -> dict[str, str]:
        """Output stems in use, casefolded, and the input (for frames the video) that has each."""
        every = (*self._earlier.values(), *self._kept.values())
        return {kept.stem.casefold(): kept.owner for kept in every}

    def take(self, modified: Mapping[str, float | None]) -> None:
        """Say what this call is about; before the manifest is opened.

        `modified` gives the time of change of each of its inputs, in seconds. Of those, rows that
        are not done, or whose file has changed since, are dropped; of all others every row stays.
        """
        assert self._file is None
        self._named = {*modified}
        self._others = {i: kept for i, kept in self._earlier.items() if kept.owner not in modified}
        self._kept = {
            input: kept
            for input, kept in self._kept.items()
            if modified.get(kept.owner, kept.modified) == kept.modified
        }

    def done(self, input: str) -> bool:
        """Whether `input` has a row of an earlier call that is kept."""
        return input in self._kept

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one row, and flush it. Missing standard fields are filled in.

        Needs `input` and `status` (ok, error or skipped). ValueError for NaN or infinity: the
        file is strict JSON, or if the disk fails.
        """
        assert row["status"] in ("ok", "error", "skipped"), row["status"]
        assert not self.done(row["input"]), f"{row['input']} is done already"
        assert row["input"] not in self._added, f"{row['input']} has a row already"
        standard: Row = {"input": "", "status": "", "error": None, "outputs": [], "seconds": 0.0}
        own = {"job": self.job, "run": self.run}
        line = json.dumps({**standard, **own, **row}, allow_nan=False)
        file = self._file or self._begin()
        try:
            file.write(line + "\n")
            file.flush()
        except OSError as error:
            raise self._unwritable(error) from error
        self._added.add(row["input"])

    def rows(self) -> Iterator[Row]:
        """All rows, streamed from the disk."""
        return (row for _, row in self._numbered())

    def videos(self) -> dict[str, list[Row]]:
        """Frames that are done, by video: of this run, and of videos that this call names."""
        found: dict[str, list[Row]] = {}
        for row in self.rows():
            video = row["input"].rpartition("#")[0]
            own = row["status"] == "ok" and row.get("run") == self.run
            if own and "frame" in row and video in self._named:
                found.setdefault(video, []).append(row)
        return found

    def __enter__(self) -> Manifest:
        self._begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def _begin(self) -> TextIO:
        """Rewrite the file with the kept rows only, and open it for more."""
        kept = {row.line for row in (*self._kept.values(), *self._others.values())}
        partial = self.path.with_name(".manifest.partial")
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            with open(partial, "w", encoding="utf-8") as file:
                for line, row in self._numbered():
                    if line in kept:
                        file.write(json.dumps(row) + "\n")
            os.replace(partial, self.path)
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise self._unwritable(error) from error
        return self._file

    def _unwritable(self, error: OSError) -> ValueError:
        return ValueError(
            f"{show(self.out)}: cannot be written to ({error.strerror}); choose another OUT (-o)"
            " or free some space"
        )

    def _numbered(self) -> Iterator[tuple[int, Row]]:
        """The rows on disk with their line numbers; a torn last line is left out."""
        if not self.path.exists():
            return
        with open(self.path, encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                row = _parse(line)
                if row is not None:
                    yield number, row
                elif line.endswith("\n"):  # whole, so it was not torn by a crash
                    raise ValueError(
                        f"{show(self.path)}: line {number} is not a row of a manifest; move the "
                        "file away or choose another OUT (-o)"
                    )


def _parse(line: str) -> Row | None:
    """A row, or None if the line is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("input"), str):
        return None
    files = (row.get("outputs", []), row.get("thumbnails", []))
    sound = row.get("status") in ("ok", "error", "skipped") and all(map(_below, files))
    return row if sound else None


def _below(names: Any) -> bool:
    """Whether these are names of files below OUT."""
    return isinstance(names, list) and all(
        isinstance(n, str) and not PurePath(n).is_absolute() and ".." not in PurePath(n).parts
        for n in names
    )
