"""How numbers and times read on a page."""

from datetime import datetime, timedelta
from math import isfinite

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")
_STEPS = ((86_400, "day"), (3_600, "hour"), (60, "minute"))


def size(count: int) -> str:
    """Bytes in binary units with three significant digits, such as `86.7 MiB`."""
    if count < 1024:
        return f"{count} B"
    power = 1
    while round(count / 1024**power, 1) >= 1000 and power < len(_UNITS):
        power += 1
    value = count / 1024**power
    return f"{value:.{0 if value >= 99.95 else 1}f} {_UNITS[power - 1]}"


def count(number: int, singular: str, plural: str = "") -> str:
    """A number with its noun: `1 version`, `3,200 versions`."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def moment(at: datetime) -> str:
    """A time of day in UTC as people read it."""
    return at.strftime("%Y-%m-%d %H:%M")


def age(at: datetime, now: datetime) -> str:
    """How long ago, in its largest unit."""
    seconds = int((now - at) / timedelta(seconds=1))
    for length, unit in _STEPS:
        if seconds >= length:
            return count(seconds // length, unit)
    return "less than a minute"


def duration(seconds: int) -> str:
    """A length of time exactly, in the largest unit that tells it: `7 days`, `36 hours`, `90 seconds`."""
    for length, unit in _STEPS:
        if seconds and seconds % length == 0:
            return count(seconds // length, unit)
    return count(seconds, "second")


def metric(value: float) -> str:
    """A measured number with up to six significant digits."""
    if not isfinite(value):
        return str(value)
    return f"{int(value):,}" if value == int(value) and abs(value) < 1e15 else f"{value:.6g}"


def share(change: float) -> str:
    """A relative change with two significant digits, such as `0.32 %`."""
    return f"{change * 100:.2g} %" if change < 1 else f"{change * 100:,.0f} %"


def short(digest: str) -> str:
    """The first digits of a digest: enough to tell two apart by eye."""
    return digest[:12]
