"""Checks of settings, made when settings are created, before any data is read."""

from __future__ import annotations

from math import isfinite
from typing import Any


def check_at_least(settings: Any, lowest: int, *names: str, of: str = "") -> None:
    """Raises ValueError unless each of the attributes is None or at least `lowest`.

    Args:
        of: what the message calls the settings, with a space after it.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not value >= lowest:
            raise ValueError(f"{of}{name} must be at least {lowest}, got {value}")


def check_finite(settings: Any, *names: str, above_zero: bool, of: str = "") -> None:
    """Raises ValueError unless each is None or finite and above 0, or else at least 0."""
    for name in names:
        value = getattr(settings, name)
        if value is None or (isfinite(value) and (value > 0 if above_zero else value >= 0)):
            continue
        wanted = "above 0" if above_zero else "at least 0"
        raise ValueError(f"{of}{name} must be finite and {wanted}, got {value}")


def check_fraction(settings: Any, *names: str, one: bool = True, of: str = "") -> None:
    """Raises ValueError unless each is from 0 to 1, or to below 1."""
    for name in names:
        value = getattr(settings, name)
        if not (0 <= value <= 1 and (one or value < 1)):
            wanted = "1" if one else "below 1"
            raise ValueError(f"{of}{name} must be from 0 to {wanted}, got {value}")
