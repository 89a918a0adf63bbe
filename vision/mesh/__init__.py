"""Nets that recover people as bodies, and their losses."""

from vision.mesh.coordformer import CoordFormer
from vision.mesh.losses import CoordFormerLoss, MeshLoss, MultiHMRLoss, OSXLoss
from vision.mesh.multihmr import MultiHMR
from vision.mesh.multihmr_anny import MultiHMRAnny
from vision.mesh.osx import OSX

__all__ = [
    "OSX",
    "CoordFormer",
    "CoordFormerLoss",
    "MeshLoss",
    "MultiHMR",
    "MultiHMRAnny",
    "MultiHMRLoss",
    "OSXLoss",
]
