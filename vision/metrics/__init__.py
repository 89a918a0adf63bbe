"""Metrics: what a trained net is judged by."""

from vision.metrics.anomaly import AnomalyMetrics, au_pro, image_auroc, pixel_auroc

__all__ = ["AnomalyMetrics", "au_pro", "image_auroc", "pixel_auroc"]
