"""Losses: plain functions and modules over image batches B×C×H×W in [0, 1]."""

from vision.losses.structure import RecoveryLoss, SSIMLoss, gms, msgms, ssim_map

__all__ = ["RecoveryLoss", "SSIMLoss", "gms", "msgms", "ssim_map"]
