"""Backbones: any timm network by name, its weights, its feature maps and its CLS attention."""

from vision.backbones.backbone import Backbone, available
from vision.backbones.weights import WeightsError

__all__ = ["Backbone", "WeightsError", "available"]
