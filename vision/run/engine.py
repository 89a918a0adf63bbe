"""The batch engine: sources -> predictor -> writer -> manifest, the same for every task.

A task is a `Job`; the engine reads ahead, groups, retries, resumes and accounts for every input.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import cv2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data.images import MAX_PIXELS, Picture, show
from vision.run.manifest import Manifest, Row
from vision.run.memory import out_of_memory
from vision.run.reading import ReadAhead, Reading, frame_count
from vision.run.sources import Source, find

# Pixels alive at once, in all pictures between reading and writing; a single larger picture is let
# through alone. Decoded, mapped and drawn over, a pixel takes some 22 bytes at the worst moment, so
# this bounds the engine to about 1.5 GB for pictures up to this size.
PIXELS_ALIVE = 64_000_000

# What a single picture may cause; anything else is a mistake in the program and stops the run.
PICTURE_ERRORS = (ValueError, RuntimeError, OSError, MemoryError, cv2.error)


class Job(Protocol):
    """One task of the engine: what to do with a batch of pictures, and what to write for each."""

    name: str
    fingerprint: str
    """Weights + options: results of another run are not reused."""
    clip: int
    """Frames of a video that are predicted together, from multiples of this number on; 1: batches
    are cut wherever they are full. A clip is shorter only where the video ends, where frames are
    missing or done (a call was broken off inside the clip), where one of its frames cannot be
    predicted, or where its pixels do not fit into memory at once."""

    def predict(self, pictures: list[Picture]) -> list[Any]:
        """One result per picture, in order. Called from one thread only."""
        ...

    def write(self, result: Any, picture: Picture, source: Source, out: Path) -> dict[str, Any]:
        """Write the files of one result; called from several threads.

        Returns the row's own fields, among them `outputs`: paths relative to `out`, named by
        `source.relative`.
        """
        ...

    def finish(self, manifest: Manifest, out: Path) -> Finished:
        """Write the summaries over all rows."""
        ...


@dataclass
class Finished:
    """Summary files that were written, and why others could not be, a line each."""

    written: list[Path] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@dataclass
class Summary:
    """What became of the inputs of one call, and the summary files written."""

    done: int = 0
    failed: int = 0
    skipped_done: int = 0
    skipped: int = 0
    seconds: float = 0.0
    outputs: list[Path] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    """Of summary files; each counts as failed."""


def run(
    job: Job,
    inputs: Sequence[str],
    out: str | Path,
    *,
    batch_size: int = 8,
    workers: int = 2,
    max_pixels: int = MAX_PIXELS,
    progress: bool = True,
) -> Summary:
    """Run `job` over files, folders, patterns and videos; results and manifest go below `out`.

    No picture stops the run: one that cannot be read, predicted or written becomes a row with its
    error. Rows stand in the order of the inputs, and neither rows nor results depend on
    `workers`. Inputs done by an earlier call with the same fingerprint are not done again.
    Pictures above `max_pixels` are errors. The pictures in memory do not grow with the number of
    inputs; a name and a few numbers stay of each.

    ValueError, before anything is written: nothing to do, or `out` cannot be used.
    """
    if batch_size < 1 or workers < 1:
        raise ValueError(f"batch size {batch_size}, workers {workers}: both must be 1 or more")
    start = time.perf_counter()
    out = Path(out)
    manifest = Manifest(out, job.fingerprint, job.name)
    sources = find(inputs, out, manifest.owners)
    manifest.take({source.input: source.modified for source in sources})
    total = sum(frame_count(source) if source.is_video else 1 for source in sources)
    with manifest, _Progress(job.name, total, progress) as bar:
        engine = _Engine(job, sources, manifest, bar, batch_size, workers, max_pixels)
        engine.work()
        summary = engine.summary
        finished = job.finish(manifest, out)
        summary.outputs, summary.errors = finished.written, finished.errors
        summary.failed += len(finished.errors)
    summary.seconds = time.perf_counter() - start
    return summary


class _Engine:
    """The state of one run; `work` does it all."""

    def __init__(
        self,
        job: Job,
        sources: Sequence[Source],
        manifest: Manifest,
        bar: _Progress,
        batch_size: int,
        workers: int,
        max_pixels: int,
    ) -> None:
        self.job, self.manifest, self.bar = job, manifest, bar
        self.batch_size = batch_size if job.clip == 1 else job.clip
        self.summary = Summary()
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="engine")
        self.reader = ReadAhead(
            sources,
            self.pool,
            lambda source: manifest.done(source.input),
            workers=workers,
            count=2 * self.batch_size,
            pixels=PIXELS_ALIVE,
            max_pixels=max_pixels,
        )
        self.pending: deque[Future[Row]] = deque()  # rows to come, in the order of the inputs

    def work(self) -> None:
        """All sources through the job, a row for each that is not done already."""
        try:
            batch: list[Reading] = []
            for reading in self.reader:
                if _is_done(reading):
                    self.summary.skipped_done += 1
                    self.bar.advance(0)
                    continue
                if batch and self._begins(reading, batch[-1]):
                    self._process(batch)
                    batch = []
                batch.append(reading)
                if self._is_full(batch):
                    self._process(batch)
                    batch = []
            self._process(batch)
            self._settle(wait=True)
        finally:
            # Also after Ctrl-C: what was written in full gets its row, the rest is done next time.
            self.reader.close()
            self.pool.shutdown(wait=True, cancel_futures=True)
            self._settle(wait=False)

    def _begins(self, reading: Reading, last: Reading) -> bool:
        """Whether a clip begins here, if the job takes clips."""
        if self.job.clip == 1:
            return False
        now, before = reading.source, last.source
        if now.frame is None or before.frame is None:
            return True
        same = now.path == before.path and now.frame == before.frame + 1
        return not same or now.frame % self.job.clip == 0

    def _is_full(self, batch: list[Reading]) -> bool:
        pictures = sum(reading.picture is not None for reading in batch)
        pixels = sum(reading.pixels for reading in batch)
        return pictures >= self.batch_size or pixels >= PIXELS_ALIVE // 2 or pictures == 0

    def _process(self, batch: list[Reading]) -> None:
        """Predict the pictures of a batch and hand each result to a writing thread."""
        start = time.perf_counter()
        pictures = [reading.picture for reading in batch if reading.picture]
        results = self._predict(pictures) if pictures else []
        share = (time.perf_counter() - start) / max(len(pictures), 1)
        del pictures  # a written picture must not outlive its release
        ready = iter(results)
        for reading in batch:
            if reading.picture:
                reading.seconds += share
                self.pending.append(self.pool.submit(self._write, reading, next(ready)))
            else:
                self.pending.append(Future())
                self.pending[-1].set_result(_row(reading, reading.error))
        self._settle(wait=False)

    def _predict(self, pictures: list[Picture]) -> list[Any]:
        """One result per picture, or the exception of a picture that cannot be predicted."""
        if len(pictures) > self.batch_size:
            half = len(pictures) // 2
            return self._predict(pictures[:half]) + self._predict(pictures[half:])
        try:
            results = list(self.job.predict(pictures))
        except PICTURE_ERRORS as error:
            failure = error.with_traceback(None)  # its frames would keep the tensors alive
        else:
            assert len(results) == len(pictures), f"{len(results)} results of {len(pictures)}"
            return results
        if len(pictures) == 1:
            return [failure]
        if out_of_memory(failure):
            self.batch_size = len(pictures) // 2
            return self._predict(pictures)
        return [result for picture in pictures for result in self._predict([picture])]

    def _write(self, reading: Reading, result: Any) -> Row:
        start = time.perf_counter()
        fields: dict[str, Any] = {}
        error: Exception | None = None
        try:
            if isinstance(result, Exception):
                raise result
            assert reading.picture is not None
            fields = self.job.write(result, reading.picture, reading.source, self.manifest.out)
        except PICTURE_ERRORS as failure:
            error = failure
        finally:
            self.reader.release(reading)
        reading.seconds += time.perf_counter() - start
        return _row(reading, _message(error, reading.source) if error else None, fields)

    def _settle(self, wait: bool) -> None:
        """Put finished rows into the manifest, in order; with `wait`, all of them."""
        while self.pending and (wait or self.pending[0].done()):
            future = self.pending.popleft()
            if future.cancelled():
                continue
            row = future.result()
            self.manifest.add(row)
            kind = {"ok": "done", "error": "failed", "skipped": "skipped"}[row["status"]]
            setattr(self.summary, kind, getattr(self.summary, kind) + 1)
            self.bar.advance(row["status"] == "error")


def _is_done(reading: Reading) -> bool:
    return reading.picture is None and not reading.error and not reading.source.skipped


def _row(reading: Reading, error: str | None, fields: dict[str, Any] | None = None) -> Row:
    source = reading.source
    status = "skipped" if source.skipped else "error" if error else "ok"
    row: Row = {
        "input": source.input,
        "status": status,
        "error": source.skipped or error,
        "outputs": [],
        "seconds": round(reading.seconds, 4),
        "name": source.relative.as_posix(),
        "modified": source.modified,
    }
    if source.frame is not None:
        row["frame"] = source.frame
    return row | (fields or {})


def _message(error: Exception, source: Source) -> str:
    """One line that names the input."""
    name = show(source.input)
    if out_of_memory(error):
        return f"{name}: does not fit into memory; use a smaller picture or another --device"
    if isinstance(error, OSError):
        where = f" {show(error.filename)}" if error.filename else ""
        reason = error.strerror or type(error).__name__
        return f"{name}: its output{where} cannot be written ({reason}); check disk and permissions"
    text = " ".join(str(error).split()) or type(error).__name__
    text = text if len(text) <= 500 else text[:499] + "…"
    return text if name in text else f"{name}: {text}"


class _Progress:
    """A bar on a terminal; elsewhere a plain line about every ten seconds; both on stderr."""

    def __init__(self, name: str, total: int, shown: bool) -> None:
        self.name, self.total, self.shown = name, total, shown
        self.count = self.failed = 0
        self.last = time.monotonic()
        self.console = Console(stderr=True)
        self.bar: Progress | None = None

    def __enter__(self) -> _Progress:
        if self.shown and self.console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            text = TextColumn("{task.description}")
            self.bar = Progress(text, *columns, console=self.console)
            self.bar.add_task(self.name, total=self.total)
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar:
            self.bar.stop()

    def advance(self, failed: int) -> None:
        """One more input is finished."""
        self.count += 1
        self.failed += failed
        suffix = f", {self.failed} failed" if self.failed else ""
        if self.bar:
            self.bar.update(self.bar.task_ids[0], advance=1, description=self.name + suffix)
        elif self.shown and time.monotonic() - self.last >= 10:
            self.last = time.monotonic()
            self.console.print(f"{self.name}: {self.count} of {self.total}{suffix}", markup=False)
