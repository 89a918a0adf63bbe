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
    """The rows of one OUT folder, for one `run` (fingerprint of weights and options).

    Rows of earlier calls stay if they are ok, belong to the same run and their outputs still
    exist; all others are dropped when the manifest is opened for writing (`with`, or the first
    `add`), in one atomic step, so there is never more than one row per input. A last line torn by
    a crash is dropped as well; anything else that is no row is a ValueError, because the file is
    then not ours to rewrite.
    """

    def __init__(self, out: str | Path, run: str) -> None:
        self.out, self.run = Path(out), run
        self.path = self.out / "manifest.jsonl"
        self._file: TextIO | None = None
        self._kept: dict[str, _Kept] = {}
        self._added: set[str] = set()
        if os.path.lexists(self.out) and not self.out.is_dir():
            raise ValueError(f"{show(self.out)}: is not a folder; choose another OUT (-o)")
        for line, row in self._numbered():
            self._kept.pop(row["input"], None)
            if self._is_done(row):
                owner, stem = row["input"], str(row.get("name", ""))
                if row.get("frame") is not None:
                    owner, stem = owner.rpartition("#")[0], str(PurePath(stem).parent)
                self._kept[row["input"]] = _Kept(line, owner, stem, row.get("modified"))

    @property
    def owners(self) -> dict[str, str]:
        """Output stems in use, casefolded, and the input (for frames the video) that has each."""
        return {kept.stem.casefold(): kept.owner for kept in self._kept.values()}

    def forget_changed(self, modified: Mapping[str, float | None]) -> None:
        """Drop the kept rows of inputs whose file changed since; before the manifest is opened.

        `modified` gives the time of change of each input of this call, in seconds.
        """
        assert self._file is None
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
        line = json.dumps({**standard, "run": self.run, **row}, allow_nan=False)
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
        kept = {row.line for row in self._kept.values()}
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

    def _is_done(self, row: Row) -> bool:
        outputs = row.get("outputs", [])
        return (
            row["status"] == "ok"
            and row.get("run") == self.run
            and all((self.out / output).is_file() for output in outputs)
        )

    def _numbered(self) -> Iterator[tuple[int, Row]]:
        """The rows on disk with their line numbers; a torn last line is left out."""
        if not self.path.exists():
            return
        torn: int | None = None
        with open(self.path, encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                if torn is not None:
                    raise ValueError(
                        f"{show(self.path)}: line {torn} is not a row of a manifest; move the "
                        "file away or choose another OUT (-o)"
                    )
                row = _parse(line)
                if row is None:
                    torn = number
                else:
                    yield number, row


def _parse(line: str) -> Row | None:
    """A row, or None if the line is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and {"input", "status"} <= row.keys() else None
