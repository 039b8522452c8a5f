"""Checks the fields of a config against their annotations and ranges."""

import math
import numbers
import operator
import typing
from collections.abc import Callable, Iterable
from types import NoneType

Rule = tuple[str, Callable[[typing.Any], object]]  # what a value must be, and the test


def _to_bool(value: object) -> bool:
    """In a papermill command true and false are texts."""
    return {"true": True, "1": True, "false": False, "0": False}[str(value).lower()]


def _to_int(value: typing.Any) -> int:
    if isinstance(value, bool):
        raise TypeError
    return int(value) if isinstance(value, str) else operator.index(value)


def _to_float(value: object) -> float:
    """YAML reads 1e-3 as text."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real | str):
        raise TypeError
    if not math.isfinite(number := float(value)):
        raise ValueError
    return number


def _to_text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TypeError
    return value


# type in an annotation: what its values are called, and how one is read
TYPES: dict[type, tuple[str, Callable]] = {
    bool: ("true or false", _to_bool),
    int: ("a whole number", _to_int),
    float: ("a number", _to_float),
    str: ("a non-empty string", _to_text),
}


def one_of(valid: Iterable[str]) -> Rule:
    """The rule that a value is among the valid ones."""
    names = tuple(valid)
    return f"one of {', '.join(names)}", lambda value: value in names


def check_choice(name: str, value: object, valid: Iterable[str]) -> None:
    """Refuses what is not among the valid values of a parameter.

    Args:
        name: of the parameter.
        value: what was given.
        valid: the names to choose from.

    Raises:
        ValueError: it is not among them; lists them.
    """
    required, is_valid = one_of(valid)
    if not is_valid(value):
        raise ValueError(f"{name} must be {required}. Received: {value!r}")


def check_field(name: str, value: object, annotation: object, rule: Rule | None = None) -> object:
    """Reads the value of a field as its annotation says.

    Args:
        name: of the field, for the error.
        value: what was given. Texts that mean a boolean or a number are taken as what they mean.
        annotation: bool, int, float, str or a union of these and None.
        rule: what the value must be beyond its type.

    Returns:
        The value in its type.

    Raises:
        ValueError: it has another type or breaks the rule; says what it must be.
    """
    types = typing.get_args(annotation) or (annotation,)
    if value is None and NoneType in types:
        return None
    required, valid = rule or (TYPES[types[0]][0], lambda value: True)
    for kind in types:
        if kind is NoneType:
            continue
        try:
            read = TYPES[kind][1](value)
        except (TypeError, ValueError, KeyError, OverflowError):
            continue
        if valid(read):
            return read
    raise ValueError(f"{name} must be {required}. Received: {value!r}")
