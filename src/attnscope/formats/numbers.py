"""How a number is written for a person: three digits that matter, and words for what is not a number."""

from __future__ import annotations

import math

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | None, *, digits: int = 3) -> str:
    """`0.43`, `12 800`, `1.2e-07`; `not a number`, `infinite`; a dash for None."""
    if value is None:
        return "–"
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinite"
    if value == 0:
        return "0"
    magnitude = abs(value)
    if magnitude < 1e-3 or magnitude >= 1e6:
        mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{power}"
    if value == int(value) or magnitude >= 1000:
        return f"{value:,.0f}".replace(",", "\u2009")
    return f"{value:.{digits}g}"


def typeset(value: float | None, *, digits: int = 3) -> str:
    """As `number`, with a true minus sign and powers of ten: `1.2 × 10⁻⁷`."""
    mantissa, exponent, power = number(value, digits=digits).partition("e")
    if not (exponent and power.lstrip("+-").isdigit()):
        return number(value, digits=digits).replace("-", "−")
    raised = str(int(power)).translate(_RAISED)
    if mantissa in ("1", "-1"):
        return f"{mantissa[:-1].replace('-', '−')}10{raised}"
    return f"{mantissa.replace('-', '−')}\u2009×\u200910{raised}"


def count(amount: int, noun: str, plural: str = "") -> str:
    """`1 finding`, `3 findings`."""
    return f"{amount} {noun if amount == 1 else plural or noun + 's'}"
