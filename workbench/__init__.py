"""Which part of a vision-language pre-training method does what: controlled ablations over ViLTA's components."""

__version__ = "0.1.0"
