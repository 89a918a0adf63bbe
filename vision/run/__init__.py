"""The batch engine: sources, read-ahead, manifest, and one module per task (`inspect`)."""
