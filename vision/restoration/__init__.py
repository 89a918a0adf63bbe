"""Nets that restore."""

from vision.restoration.hat import HAT

__all__ = ["HAT"]
