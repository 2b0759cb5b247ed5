"""Frames in, matplotlib figures out; one style, readable in print and by colour-blind readers."""
