"""Metrics: what a trained net is judged by."""

from vision.metrics.anomaly import AnomalyMetrics, au_pro, image_auroc, pixel_auroc
from vision.metrics.restoration import luma, psnr, psnr_b, psnr_y, ssim, ssim_y

__all__ = [
    "AnomalyMetrics",
    "au_pro",
    "image_auroc",
    "luma",
    "pixel_auroc",
    "psnr",
    "psnr_b",
    "psnr_y",
    "ssim",
    "ssim_y",
]
