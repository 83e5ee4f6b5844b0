"""Imagen Video in the open: a pixel-space text-to-video cascade of seven diffusion models."""

__version__ = "0.1.0"
