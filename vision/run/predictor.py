"""A loaded detector as the engine and Python users call it."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from data.images import resize
from vision.anomaly.detector import Detector
from vision.anomaly.scoring import Scorer
from vision.layers.precision import repeatable
from vision.run.inspect import Inspection

LEAST_SIDE = 8
"""Smaller pictures are a mistake of whoever made them, and any score of theirs would be noise."""


class AnomalyPredictor:
    """Pictures in, `Inspection`s out.

    Args:
        net: the detector.
        scorer: its calibrated scorer.
        device: where both run.
        fingerprint: of the weights; the engine reuses results only under the same one.
    """

    def __init__(
        self, net: Detector, scorer: Scorer, *, device: str = "cpu", fingerprint: str = ""
    ) -> None:
        self.device = torch.device(device)
        self.net, self.scorer = net.eval().to(self.device), scorer.eval().to(self.device)
        self.fingerprint = fingerprint

    def __call__(self, image: NDArray[np.uint8]) -> Inspection:
        """Inspect one RGB picture, uint8 H×W×3."""
        return self.predict([image])[0]

    @torch.inference_mode()
    def predict(self, images: list[NDArray[np.uint8]]) -> list[Inspection]:
        """Inspect RGB pictures, uint8 H×W×3, of any sizes.

        Pictures pass the net one by one: matrix products round differently for each batch size, and
        a score must not depend on its neighbours. On a CPU this costs nothing; on a GPU it leaves
        some speed on the table.

        Raises:
            ValueError: a picture is not uint8 H×W×3, or less than LEAST_SIDE pixels wide or high.
        """
        with repeatable():
            return [self._inspect(image) for image in images]

    def _inspect(self, image: NDArray[np.uint8]) -> Inspection:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(
                f"a picture of {image.dtype} {image.shape}; give uint8 H×W×3 in RGB order"
            )
        if min(image.shape[:2]) < LEAST_SIDE:
            raise ValueError(
                f"a picture of {image.shape[1]}×{image.shape[0]} pixels shows no part; give"
                f" {LEAST_SIDE} or more a side"
            )
        # A copy, since torch takes neither flipped views (BGR[..., ::-1]) nor read-only arrays.
        square = torch.tensor(resize(image, self.net.input_size).copy())  # S×S×3
        batch = square.permute(2, 0, 1)[None].to(self.device).float() / 255
        score, map_ = self.scorer(self.net.maps(batch))
        height, width = image.shape[:2]
        own_size = cv2.resize(
            map_[0, 0].cpu().numpy(), (width, height), interpolation=cv2.INTER_LINEAR
        )
        value = float(score[0])
        return Inspection(value, "defect" if value >= 0.5 else "good", own_size)
