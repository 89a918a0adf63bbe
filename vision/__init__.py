"""visionmend: restore images, inspect factory parts, recover people as meshes."""

__version__ = "0.1.0"
