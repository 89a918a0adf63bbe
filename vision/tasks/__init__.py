"""The only LightningModules and LightningDataModules of the project."""

from vision.tasks.anomaly import AnomalyTask
from vision.tasks.datamodule import AnomalyData

__all__ = ["AnomalyData", "AnomalyTask"]
