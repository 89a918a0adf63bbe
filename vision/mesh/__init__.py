"""Nets that recover people as bodies."""
