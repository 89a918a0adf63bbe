"""Nets that restore, and one that learns what is to be restored."""

from vision.restoration.dwformer import DWFormer
from vision.restoration.hat import HAT
from vision.restoration.learned import LearnedDisplay
from vision.restoration.mpgnet import Discriminator, MPGNet
from vision.restoration.rat import RAT

__all__ = ["HAT", "RAT", "DWFormer", "Discriminator", "LearnedDisplay", "MPGNet"]
