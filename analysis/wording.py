"""The format of names and numbers in tables, figures and sentences."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from workbench.metrics import Metric

DASH = "–"


def number(value: float | None, digits: int = 3) -> str:
    """Formats a number with `digits` decimals; None or nan is a dash. A value that rounds to zero has no sign."""
    if value is None or not math.isfinite(value):
        return DASH
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    return text.replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """Like `number`, with the sign."""
    text = number(value, digits)
    return text if text == DASH or text.startswith("−") or float(text) == 0 else f"+{text}"


def probability(value: float | None) -> str:
    """Formats a p-value."""
    if value is None or value != value:
        return DASH
    return "< .001" if value < 0.001 else f"{value:.3f}"


def p_is(value: float | None) -> str:
    """Returns `p = .012` or `p < .001`."""
    text = probability(value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def spread(low: float | None, high: float | None, form: Callable[[float | None], str] = number) -> str:
    """Formats an interval in brackets, or a dash where both ends are unknown. A single unknown end is open."""
    known = [end is not None and end == end for end in (low, high)]
    if not any(known):
        return DASH
    return f"[{form(low) if known[0] else '…'}, {form(high) if known[1] else '…'}]"


def counted(count: int, noun: str) -> str:
    """Returns a count with its noun: `1 seed`, `2 seeds`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(items: Sequence[str], word: str = "and") -> str:
    """Joins items: `a`, `a and b`, `a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {word} {items[-1]}" if items else ""


def amount(value: float, row: Metric) -> str:
    """Returns the size of a difference of a metric in words; shares are in percentage points."""
    size, unit = (100 * abs(value), "points") if row.unit == "share" else (abs(value), row.unit)
    unit = "" if unit in row.title else unit
    digits = 1 if row.unit == "share" else 3
    text = number(size, digits) if round(size, digits) > 0 else f"{size:.2g}"
    return f"{text} {unit}".strip()


def short(factor: str) -> str:
    """Returns the last part of a dotted key, as prose."""
    return factor.rsplit(".", 1)[-1].replace("_", " ")


def level(value: Any) -> str:
    """Returns a factor's level, as prose."""
    return f"{value:g}" if isinstance(value, float) else str(value).replace("_", " ")
