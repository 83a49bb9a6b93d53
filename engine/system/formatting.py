"""Figures as people read them. 1 GB is 10^9 bytes. What is not known is the word "unknown", never a guess."""

from __future__ import annotations

import math

UNKNOWN = "unknown"
_BYTE_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_COUNT_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def size(number: float | None) -> str:
    """Bytes: "15.5 GB", "812 MB"."""
    if number is None:
        return UNKNOWN
    return _with_unit(number, _BYTE_UNITS) or f"{number:.0f} bytes"


def count(number: float | None) -> str:
    """A large count, to three figures: "43.6 M", "8.19 B"; below a thousand as it is."""
    if number is None:
        return UNKNOWN
    return _with_unit(number, _COUNT_UNITS) or f"{number:.0f}"


def _with_unit(number: float, units: tuple[tuple[float, str], ...]) -> str | None:
    """Three figures and the largest unit that leaves at least 1, where rounding is done first (999.9 MB is 1 GB)."""
    rounded = float(f"{number:.3g}")
    for factor, unit in units:
        if abs(rounded) >= factor:
            return f"{rounded / factor:.3g} {unit}"
    return None


def whole(number: float | None) -> str:
    """A count with its thousands apart: "14,812"."""
    return UNKNOWN if number is None else f"{number:,.0f}"


def figure(number: float | None, digits: int = 3) -> str:
    """A measured value to a few figures: "1.27", "0.0002". What is not a number is said so."""
    if number is None:
        return UNKNOWN
    if not math.isfinite(number):
        return "not a number" if math.isnan(number) else "infinite"
    return f"{number:.{digits}g}" if abs(number) < 10**digits else whole(number)


def share(part: float | None, of: float | None) -> str:
    """A share in per cent, to two figures: "0.53 %"."""
    if part is None or not of:
        return UNKNOWN
    percent = 100 * part / of
    return "100 %" if percent >= 99.95 else f"{percent:.2g} %"


def money(dollars: float | None) -> str:
    """US dollars: "$ 0.64"; from a hundred on without cents."""
    if dollars is None:
        return UNKNOWN
    return f"$ {dollars:,.0f}" if dollars >= 100 else f"$ {dollars:.2f}"


def duration(seconds: float | None) -> str:
    """A time in its two largest units: "42 s", "5 min 20 s", "1 h 52 min", "2 d 3 h"."""
    if seconds is None:
        return UNKNOWN
    if seconds < 1:
        return "under 1 s"
    for large, small, factor, part in (("d", "h", 86400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1)):
        parts = round(seconds / part)
        if parts >= factor // part:
            many, rest = divmod(parts, factor // part)
            return f"{many} {large} {rest} {small}" if rest and many < 30 else f"{many} {large}"
    return f"{round(seconds)} s"
