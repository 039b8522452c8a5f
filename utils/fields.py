"""Checks the fields of a config and the parameters of a notebook against what they must be."""

import ast
import contextlib
import math
import numbers
import operator
import typing
from collections.abc import Callable, Iterable, Sequence
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


def first_of(names: Sequence[str], most: int = 10, between: str = ", ") -> str:
    """Some of many names in an error, and how many there are besides.

    Args:
        names: in the order in which they are shown.
        most: that are shown.
        between: two of them.

    Returns:
        "a, b, and 3 more", say.
    """
    more = len(names) - most
    return between.join([*names[:most], *[f"and {more} more"] * (more > 0)])


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


def check_parameters(notebook: dict[str, typing.Any]) -> None:
    """Refuses what papermill passes and a notebook does not have; reads its flags and lists.

    Without it, papermill only warns of such a name and goes on; it takes "false" for a text, which
    counts as true, and has no lists.

    Args:
        notebook: `globals()` of the notebook; flags and lists are replaced by what they mean.

    Raises:
        ValueError: an unknown name (lists the valid ones); a flag that is neither true nor false;
            a list that cannot be read.
    """
    cells = notebook.get("In", [])  # absent where the notebook runs as a script
    passed = [i for i, cell in enumerate(cells) if cell.startswith("# Parameters\n")]
    if not passed:  # whoever runs it has written the values themselves
        return
    defaults = _assigned(cells[passed[0] - 1])
    for name in _assigned(cells[passed[-1]]):  # a kernel may have run the notebook before
        check_choice("A parameter", name, defaults)
        value = notebook[name]
        if isinstance(defaults[name], bool):
            notebook[name] = check_field(name, value, bool)
        elif isinstance(defaults[name], list):
            notebook[name] = _to_list(name, value)


def _to_list(name: str, value: object) -> list[typing.Any]:
    """In a papermill command a list is a text, '[0, 1]' or '[activation, dropout]'."""
    import yaml  # here, since the first cell of a notebook imports this module and then installs it

    is_list = isinstance(value, str) and value.startswith("[")
    try:
        read = yaml.safe_load(value) if is_list else value
    except yaml.YAMLError as error:
        raise ValueError(
            f"{name} must be one value or a list such as '[a, b]'. Received: {value!r}"
        ) from error
    return read if isinstance(read, list) else [read]


def _assigned(cell: str) -> dict[str, typing.Any]:
    """The names that a cell of parameters assigns to, and their values where they are literals."""
    assigned: dict[str, typing.Any] = {}
    for statement in ast.parse(cell).body:
        if isinstance(statement, ast.Assign):
            name = ast.unparse(statement.targets[0])
            assigned[name] = None
            with contextlib.suppress(ValueError):  # papermill writes float('inf')
                assigned[name] = ast.literal_eval(statement.value)
    return assigned
