"""Blocks shared by two nets or more."""
