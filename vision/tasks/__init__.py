"""The only LightningModules and LightningDataModules of the project."""

from vision.tasks.anomaly import AnomalyTask
from vision.tasks.datamodule import AnomalyData
from vision.tasks.pairs import RestorationData
from vision.tasks.restoration import AdversarialTask, RestorationTask

__all__ = ["AdversarialTask", "AnomalyData", "AnomalyTask", "RestorationData", "RestorationTask"]
