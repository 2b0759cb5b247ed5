"""How names and numbers are written, in tables, figures and sentences alike."""

from collections.abc import Callable


def plain(name: str) -> str:
    """`replace_object` as people write it."""
    return name.replace("_", " ")


def number(value: float | None) -> str:
    """Three significant digits, or a dash."""
    return "–" if value is None or value != value else f"{value:.3f}"


def signed(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:+.3f}"


def spread(low: float | None, high: float | None, form: Callable[[float | None], str] = number) -> str:
    """An interval in brackets, or a dash where one seed says nothing of it."""
    return "–" if low is None or low != low else f"[{form(low)}, {form(high)}]"
