"""Controlled ablations over ViLTA's components: what each part of a vision-language pre-training method does."""

__version__ = "0.1.0"
