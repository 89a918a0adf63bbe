"""Nets that recover people as bodies."""

from vision.mesh.coordformer import CoordFormer as CoordFormer
from vision.mesh.osx import OSX as OSX
