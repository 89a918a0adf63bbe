"""What the user named on the command line, as a list of sources in a fixed order."""

from __future__ import annotations

import glob
import itertools
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.images import SUFFIXES, show

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm"})


@dataclass(frozen=True)
class Source:
    """One input: a picture file, a frame of a video, or something that will only give a row.

    `input` is the name in the manifest: the path as the user gave it, joined with the part found
    below it ("clip.mp4#12" for a frame). `relative` is the stem of its outputs below OUT, unique
    among all sources. `modified` is the file's time of change in seconds, None without a file.
    `skipped` or `error`, one line, say why there is no picture to read.
    """

    input: str
    path: Path
    relative: Path
    frame: int | None = None
    modified: float | None = None
    skipped: str | None = None
    error: str | None = None

    @property
    def is_video(self) -> bool:
        """Whether this is a whole video, which `frames` takes apart."""
        return self.frame is None and self.path.suffix.lower() in VIDEO_SUFFIXES


def find(inputs: Sequence[str], out: Path, owners: Mapping[str, str] | None = None) -> list[Source]:
    """List the pictures and videos named by files, folders and glob patterns, each once, in order.

    Folders are searched recursively, hidden entries and OUT itself left out; other files in them
    become sources with `skipped` set. What was named but is missing becomes a source with an
    error, as long as anything else was found. With more than one folder, each is mirrored below
    its own name. `owners` are the outputs of earlier runs, casefolded stem to input: no other input
    gets such a stem.

    ValueError: nothing found at all, a folder without a picture, OUT equal to a folder searched, an
    input where results would be written.
    """
    found: dict[str, Source] = {}
    named: dict[str, str] = {}  # by place: a folder may be named relatively and absolutely
    for text in inputs:
        named.setdefault(_place(text), text)
    folders = sum(os.path.isdir(text) for text in named.values())
    labels: dict[str, str] = {}
    for text in named.values():
        path = Path(text)
        if os.path.isdir(path):  # Path.is_dir raises where a folder above may not be entered
            name = path.name if path.name not in ("", "..") else path.resolve().name
            below = Path(_unused([name], text, labels)) if folders > 1 else Path()
            batch = [replace(s, relative=below / s.relative) for s in _folder(path, out)]
        elif os.path.lexists(path):
            batch = [_source(path, Path(path.name))]
        elif glob.has_magic(text):
            batch = sorted(_glob(text, out), key=lambda source: source.relative.parts)
        else:
            error = f"{show(text)}: {_why_absent(path)}"
            batch = [Source(text, path, Path(path.name), error=error)]
        for source in batch:
            found.setdefault(_place(source.input), source)
    if not any(os.path.lexists(source.path) for source in found.values()):
        missing = next((source.error for source in found.values()), None)
        raise ValueError(missing or "no input: name pictures, folders, patterns or videos")
    sources = _with_unique_outputs(found.values(), owners or {})
    _check_overwriting(sources, out)
    return sources


def _place(name: str) -> str:
    """The same for all names of one entry of a folder."""
    folder, base = os.path.split(name.rstrip(os.sep) or name)
    return os.path.join(os.path.realpath(folder or os.curdir), base)


def _why_absent(path: Path) -> str:
    try:
        path.lstat()
    except PermissionError:
        return "cannot be reached, permission denied; give this user the right to enter its folder"
    except OSError:
        pass  # it does not exist, or its name is too long for any file
    return "does not exist; check the spelling"


def _source(path: Path, relative: Path) -> Source:
    try:
        modified = path.stat().st_mtime
    except OSError:  # a broken link: reading it gives the message
        modified = None
    return Source(str(path), path, relative, modified=modified)


def _folder(root: Path, out: Path) -> list[Source]:
    """All files below `root` as sources, sorted; ValueError if no picture is among them."""
    if os.path.realpath(root) == os.path.realpath(out):
        raise ValueError(f"{show(root)}: is both the input and OUT; choose another folder for -o")
    sources = sorted(_walk(root, out), key=lambda source: source.relative.parts)
    if all(source.skipped for source in sources):
        kinds = " ".join(sorted(suffix[1:] for suffix in SUFFIXES | VIDEO_SUFFIXES))
        raise ValueError(
            f"{show(root)}: no picture in this folder or below it; supply files ending in {kinds}"
        )
    return sources


def _walk(root: Path, out: Path) -> Iterator[Source]:
    """Visit every folder once; real folders before links, so that files go by their real name."""
    seen = {os.path.realpath(out)}
    folders, links = deque([root]), deque[Path]()
    while folders or links:
        folder = folders.popleft() if folders else links.popleft()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            reason = f"{show(folder)}: cannot be listed ({error.strerror}); check its permissions"
            inside = folder.relative_to(root)
            yield Source(
                str(folder), folder, inside if inside.name else Path(Path(real).name), error=reason
            )
            continue
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith("."):
                continue
            if os.path.isdir(path):  # entry.is_dir raises for a link to itself
                (links if entry.is_symlink() else folders).append(path)
            else:
                yield _judged(_source(path, path.relative_to(root)))


def _judged(source: Source) -> Source:
    """Mark a file that was found rather than named, and is no picture."""
    suffix = source.path.suffix.lower()
    if suffix not in SUFFIXES | VIDEO_SUFFIXES:
        return replace(source, skipped=f"not a picture or video by its suffix ({suffix or 'none'})")
    if os.path.exists(source.path) and not os.path.isfile(source.path):
        return replace(source, skipped="not a regular file")
    return source


def _glob(pattern: str, out: Path) -> Iterator[Source]:
    """Matches of a pattern the shell left alone; outputs mirror the part with the wildcards."""
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:fixed])
    real_root, real_out = Path(os.path.realpath(root)), Path(os.path.realpath(out))
    if real_root == real_out:
        raise ValueError(f"{show(pattern)}: looks in OUT; choose another folder for -o")
    inner = real_out if real_root in real_out.parents else None
    seen: set[tuple[str, str]] = set()
    matches = []
    for match in glob.glob(pattern, recursive=True):
        path = Path(match)
        relative = Path(os.path.relpath(path, root))
        real = os.path.realpath(path.parent)
        # Real folders before links to them, so that files go by their real name.
        linked = Path(real) != real_root / relative.parent
        matches.append((linked, len(relative.parts), path, relative, real))
    for *_, path, relative, real in sorted(matches):
        if (real, path.name) in seen or (inner and Path(real, path.name).is_relative_to(inner)):
            continue
        seen.add((real, path.name))
        relative = Path(path.name) if ".." in relative.parts else relative
        if os.path.isdir(path):
            for source in _walk(path, out):
                yield replace(source, relative=relative / source.relative)
        else:
            yield _judged(_source(path, relative))
    if not seen:
        error = f"{show(pattern)}: matches no file; check the pattern"
        yield Source(pattern, Path(pattern), Path(pattern), error=error)


def _with_unique_outputs(sources: Iterable[Source], owners: Mapping[str, str]) -> list[Source]:
    """Outputs are named by the stem; by the whole file name where two files share a stem."""
    sources = list(sources)
    stems = Counter(str(source.relative.with_suffix("")).casefold() for source in sources)
    used = dict(owners)
    named = []
    for source in sources:
        stem, full = str(source.relative.with_suffix("")), str(source.relative)
        # A video's frames go into a folder, which must not merge with one of the same stem.
        alone = stems[stem.casefold()] == 1 and not source.is_video
        name = _unused([stem, full] if alone else [full], source.input, used)
        named.append(replace(source, relative=Path(name)))
    return named


def _check_overwriting(sources: Iterable[Source], out: Path) -> None:
    """ValueError if an input lies where a result may be written.

    That is OUT/<stem>.<anything>, for a video OUT/<stem>/<anything>.
    """
    stems = {os.path.realpath(out / source.relative) for source in sources}
    videos = [os.path.realpath(out / s.relative) + os.sep for s in sources if s.is_video]
    for source in sources:
        place = os.path.realpath(source.path)
        folder, _, name = place.rpartition(os.sep)
        parts = name.split(".")
        taken = {os.path.join(folder, ".".join(parts[:end])) for end in range(1, len(parts))}
        if taken & stems or place.startswith(tuple(videos)):
            raise ValueError(
                f"{show(source.path)}: lies in OUT, where a result may take its place; choose"
                " another OUT (-o)"
            )


def _unused(names: Sequence[str], owner: str, used: dict[str, str]) -> str:
    """Claim the first free name, else the last one numbered from 2. Case does not tell apart."""
    numbered = (f"{names[-1]}-{number}" for number in itertools.count(2))
    for name in itertools.chain(names, numbered):
        if used.setdefault(name.casefold(), owner) == owner:
            return name
    raise AssertionError("counting does not end")
