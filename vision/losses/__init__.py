"""Losses: plain functions and modules over image batches B×C×H×W in [0, 1]."""

from vision.losses.restoration import (
    L1,
    MSE,
    Charbonnier,
    FocalRegion,
    Perceptual,
    RestorationLoss,
    WeightedSum,
)
from vision.losses.structure import RecoveryLoss, SSIMLoss, msgms, ssim_map

__all__ = [
    "L1",
    "MSE",
    "Charbonnier",
    "FocalRegion",
    "Perceptual",
    "RecoveryLoss",
    "RestorationLoss",
    "SSIMLoss",
    "WeightedSum",
    "msgms",
    "ssim_map",
]
