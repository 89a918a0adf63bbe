"""From sources to decoded pictures, in order, ahead of the consumer and within bounded memory."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from data.images import ImageError, Picture, open_regular, read, show
from vision.run.sources import Source

# What is wrong with a video stands in its row; FFmpeg and OpenCV would say it again on stderr.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)

_FRAME_SIZE = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)


def frames(
    video: Source, done: Callable[[Source], bool], max_pixels: int
) -> Iterator[tuple[Source, Picture | None]]:
    """The frames of a video in order; those that are `done` come without a picture.

    A video that cannot be opened, or ends well before the length its header states, ends with a
    source that carries the error.
    """
    try:
        open_regular(video.path, show(video.path)).close()
    except ImageError as error:
        yield replace(video, error=str(error)), None
        return
    # An absolute path is never taken for a network address or a protocol by FFmpeg.
    capture = cv2.VideoCapture(os.path.abspath(video.path), cv2.CAP_FFMPEG)
    try:
        width, height = (int(capture.get(p)) for p in _FRAME_SIZE)
        if not capture.isOpened() or width * height > max_pixels:
            reason = "cannot be read as a video; re-encode it as MP4 (H.264)"
            if capture.isOpened():
                reason = (
                    f"{width}×{height} frames exceed the limit of {max_pixels:,} pixels; raise it"
                    f" with --max-pixels {width * height}"
                )
            yield replace(video, error=f"{show(video.path)}: {reason}"), None
            return
        number, stated = 0, capture.get(cv2.CAP_PROP_FRAME_COUNT)
        while capture.grab():
            source = replace(
                video,
                input=f"{video.input}#{number}",
                relative=video.relative / f"frame_{number:06d}",
                frame=number,
            )
            frame = (video.input, number)
            yield (source, None) if done(source) else _retrieve(capture, source, frame)
            number += 1
        # Some containers only estimate their length, hence the tolerance.
        if number == 0 or number < 0.99 * stated - 1:
            reason = f"ends after {number} of {stated:.0f} frames; it is damaged, copy it again"
            yield replace(video, error=f"{show(video.path)}: {reason}"), None
    finally:
        capture.release()


def _retrieve(
    capture: cv2.VideoCapture, source: Source, frame: tuple[str, int]
) -> tuple[Source, Picture | None]:
    decoded, bgr = capture.retrieve()
    if not decoded:
        reason = f"{show(source.input)}: the frame cannot be decoded; copy the video again"
        return replace(source, error=reason), None
    rgb: NDArray[np.uint8] = np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8)
    return source, Picture(rgb, name=show(source.input), frame=frame)


def frame_count(video: Source) -> int:
    """The number of frames the header states, at least 1; an estimate, for progress only."""
    try:
        open_regular(video.path, show(video.path)).close()
    except ImageError:
        return 1
    capture = cv2.VideoCapture(os.path.abspath(video.path), cv2.CAP_FFMPEG)
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    return max(count, 1)


@dataclass
class Reading:
    """A source on its way through the engine; without a picture it is an error, skipped or done."""

    source: Source
    picture: Picture | None = None
    error: str | None = None
    seconds: float = 0.0

    @property
    def pixels(self) -> int:
        """Height × width of the picture, 0 without one."""
        return self.picture.pixels.shape[0] * self.picture.pixels.shape[1] if self.picture else 0


class ReadAhead:
    """Iterate over the readings of `sources` in order, decoded ahead in the threads of `pool`.

    At most `count` pictures are alive, and new ones are begun only while those alive have fewer
    than `pixels` pixels together: a picture lives until the consumer calls `release`. There is no
    thread of its own: the consumer and every finished reading begin the next ones. The consumer
    must not hold more than half of either limit while it asks for more.
    """

    def __init__(
        self,
        sources: Iterable[Source],
        pool: Executor,
        done: Callable[[Source], bool],
        *,
        workers: int,
        count: int,
        pixels: int,
        max_pixels: int,
    ) -> None:
        self._pool, self._done, self._max_pixels = pool, done, max_pixels
        self._workers, self._count, self._pixels_limit = workers, count, pixels
        self._items = self._open(sources)
        self._queue: deque[Reading | Future[Reading]] = deque()
        self._alive = self._pixels = self._unread = 0
        self._exhausted = False
        self._changed = threading.Condition(threading.RLock())

    def __iter__(self) -> Iterator[Reading]:
        while True:
            with self._changed:
                self._top_up()
                while not self._queue and not self._exhausted:
                    self._changed.wait()
                if not self._queue:
                    return
                reading = self._queue.popleft()
            yield reading if isinstance(reading, Reading) else reading.result()

    def release(self, reading: Reading) -> None:
        """The picture is not needed any more."""
        with self._changed:
            self._alive -= 1
            self._pixels -= reading.pixels
            reading.picture = None
            self._top_up()

    def close(self) -> None:
        """Begin no more readings."""
        with self._changed:
            self._exhausted = True
            self._items.close()
            self._changed.notify_all()

    def _top_up(self) -> None:
        while not self._exhausted and self._has_room():
            start = time.perf_counter()
            item = next(self._items, None)
            if item is None:
                self._exhausted = True
                break
            reading, unread = item
            reading.seconds = time.perf_counter() - start
            self._alive += unread or reading.picture is not None
            self._pixels += reading.pixels
            self._unread += unread
            self._queue.append(self._pool.submit(self._read, reading) if unread else reading)
        self._changed.notify_all()

    def _has_room(self) -> bool:
        # A picture's size is known once it is read, so no more are begun than are read at once.
        return (
            max(self._alive, len(self._queue)) < self._count
            and self._pixels < self._pixels_limit
            and self._unread < self._workers
        )

    def _open(self, sources: Iterable[Source]) -> Generator[tuple[Reading, bool], None, None]:
        """Readings in order, and whether the file is still to be read."""
        for source in sources:
            if source.error or source.skipped:
                yield Reading(source, error=source.error), False
            elif source.is_video:
                for frame, picture in frames(source, self._done, self._max_pixels):
                    yield Reading(frame, picture, frame.error), False
            else:
                yield Reading(source), not self._done(source)

    def _read(self, reading: Reading) -> Reading:
        start = time.perf_counter()
        try:
            reading.picture = read(reading.source.path, self._max_pixels)
        except ValueError as error:
            reading.error = str(error)
        except MemoryError:
            reading.error = f"{show(reading.source.path)}: does not fit into memory; cut it up"
        reading.seconds += time.perf_counter() - start
        with self._changed:
            self._unread -= 1
            self._alive -= reading.picture is None
            self._pixels += reading.pixels
            self._top_up()
        return reading
