"""Nets that recover people as bodies."""

from vision.mesh.coordformer import CoordFormer
from vision.mesh.multihmr import MultiHMR, MultiHMRAnny
from vision.mesh.osx import OSX

__all__ = ["OSX", "CoordFormer", "MultiHMR", "MultiHMRAnny"]
