"""What a frozen backbone says of pictures it has seen, kept in a folder."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class Remembered:
    """One `.npz` of 16-bit floats for each picture, named by a digest of it and of the weights.

    A head on a frozen net learns several times as fast on a CPU when each picture passes through
    the net once; its colours must then stay as they are. Of 336 pixels, ViT-S/14 says 0.44 MB in
    tokens. Several runs may share the folder.

    Args:
        folder: made if it is not there.
        fingerprint: digest of the backbone's weights.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.fingerprint = folder, fingerprint

    def __call__(
        self, images: Tensor, what: str, say: Callable[[Tensor], Sequence[Tensor]]
    ) -> list[Tensor]:
        """What `say`, by the name `what`, makes of B×3×H×W: tensors B×…

        They are rounded to 16 bits the first time already.

        Raises:
            ValueError: a file of the folder is damaged, or a number is too large for 16 bits.
        """
        files = [self._file(image, what) for image in images]
        unseen = [i for i, file in enumerate(files) if not file.exists()]
        if unseen:
            said = [part.half().cpu().numpy() for part in say(images[unseen])]
            if not all(np.isfinite(part).all() for part in said):
                raise ValueError(f"{what} do not fit into 16 bits; leave model.features out")
            for i, *parts in zip(unseen, *said, strict=True):
                _write(files[i], parts)
        kept = zip(*map(_read, files), strict=True)
        return [torch.from_numpy(np.stack(parts)).to(images) for parts in kept]

    def _file(self, image: Tensor, what: str) -> Path:
        kind = image.device.type
        half = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else image.dtype
        name = f"{self.fingerprint} {what} {half} {tuple(image.shape)}".encode()
        digest = hashlib.blake2b(name + image.cpu().numpy().tobytes(), digest_size=16)
        return self.folder / f"{digest.hexdigest()}.npz"


def _write(file: Path, parts: Sequence[np.ndarray]) -> None:
    part = file.with_suffix(f".{os.getpid()}.part")  # another run may write the same
    with part.open("wb") as stream:
        np.savez(stream, *parts)
    part.replace(file)


def _read(file: Path) -> list[np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as parts:
            return [parts[name] for name in parts.files]
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{file} is damaged; delete it, and it is made again") from error
