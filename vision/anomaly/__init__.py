"""Nets that inspect: EAR, and the baselines it is measured against."""

from vision.anomaly.detector import Detector, Recovery
from vision.anomaly.ear import EAR
from vision.anomaly.masking import AttentionMask
from vision.anomaly.memory import FeatureMemory
from vision.anomaly.neighbours import FeatureNeighbours
from vision.anomaly.riad import RIAD
from vision.anomaly.scoring import Scorer
from vision.anomaly.unet import UNet

__all__ = [
    "EAR",
    "RIAD",
    "AttentionMask",
    "Detector",
    "FeatureMemory",
    "FeatureNeighbours",
    "Recovery",
    "Scorer",
    "UNet",
]
