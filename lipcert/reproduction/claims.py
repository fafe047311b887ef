"""What a table is evidence for, tested on our numbers: comparisons such as `lmt.radius > 10 * naive.radius`.

A comparison reads ROW.COLUMN, numbers, + − * / and min, max and mean of several; chains and `and` hold if all of their
parts do. Numbers carry their standard error along. A comparison of a and b holds if their difference has the right
sign and is more than twice its error, fails if it has the wrong sign and is that large, and is undecided in between.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import NamedTuple

from lipcert.reproduction.measured import Value

HOLDS, FAILS, UNDECIDED, UNMEASURED, UNTESTED = (
    "holds",
    "does not hold",
    "undecided",
    "not measured",
    "not tested by numbers",
)
CERTAIN = 2.0  # standard errors


class Number(NamedTuple):
    """A number and its standard error; None where it is not known."""

    mean: float
    error: float | None


class Unmeasured(Exception):
    """A number of the claim has not been measured."""


ORDERS: dict[type, int] = {ast.Lt: 1, ast.Gt: -1}


def judge(test: str, values: Mapping[str, Mapping[str, Value]]) -> str:
    """The verdict on a test, one of the words above. ValueError where it is no such comparison."""
    try:
        verdicts = [_comparison(node, values) for node in _comparisons(ast.parse(test, mode="eval").body, test)]
    except Unmeasured:
        return UNMEASURED
    except SyntaxError:
        raise _wrong(test) from None
    return next((word for word in (FAILS, UNDECIDED) if word in verdicts), HOLDS)


def names_in(test: str) -> list[tuple[str, str]]:
    """The (row, column) that a test reads."""
    nodes = [node for node in ast.walk(ast.parse(test, mode="eval")) if isinstance(node, ast.Attribute)]
    return [(node.value.id, node.attr) for node in nodes if isinstance(node.value, ast.Name)]


def _comparisons(node: ast.expr, test: str) -> list[tuple[ast.expr, int, ast.expr]]:
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        return [one for part in node.values for one in _comparisons(part, test)]
    if not isinstance(node, ast.Compare) or any(type(order) not in ORDERS for order in node.ops):
        raise _wrong(test)
    sides = [node.left, *node.comparators]
    return [(a, ORDERS[type(order)], b) for a, order, b in zip(sides, node.ops, sides[1:], strict=False)]


def _comparison(of: tuple[ast.expr, int, ast.expr], values: Mapping[str, Mapping[str, Value]]) -> str:
    first, sign, second = of
    gap = _sum(_evaluate(second, values), _evaluate(first, values), -1)
    ahead = sign * gap.mean
    if gap.error is None:  # one run each: the sign is all that is known
        return HOLDS if ahead > 0 else FAILS
    return HOLDS if ahead > CERTAIN * gap.error else FAILS if -ahead > CERTAIN * gap.error else UNDECIDED


def _evaluate(node: ast.expr, values: Mapping[str, Mapping[str, Value]]) -> Number:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return Number(float(node.value), 0.0)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        value = values.get(node.value.id, {}).get(node.attr)
        if value is None:
            raise Unmeasured
        return Number(value.number, value.error)
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        return ARITHMETIC[type(node.op)](_evaluate(node.left, values), _evaluate(node.right, values))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CHOICES and node.args:
        return CHOICES[node.func.id]([_evaluate(argument, values) for argument in node.args])
    raise _wrong(ast.unparse(node))


def _sum(a: Number, b: Number, sign: int = 1) -> Number:
    return Number(a.mean + sign * b.mean, _together(a.error, b.error))


def _product(a: Number, b: Number) -> Number:
    return Number(a.mean * b.mean, _together(_times(a.error, b.mean), _times(b.error, a.mean)))


def _quotient(a: Number, b: Number) -> Number:
    if b.mean == 0:
        raise Unmeasured
    return Number(a.mean / b.mean, _together(_times(a.error, 1 / b.mean), _times(b.error, a.mean / b.mean**2)))


def _mean(numbers: list[Number]) -> Number:
    total = numbers[0]
    for number in numbers[1:]:
        total = _sum(total, number)
    return Number(total.mean / len(numbers), _times(total.error, 1 / len(numbers)))


def _times(error: float | None, factor: float) -> float | None:
    return None if error is None else abs(error * factor)


def _together(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else math.hypot(a, b)


def _wrong(test: str) -> ValueError:
    return ValueError(f"{test!r} is no comparison of numbers as ROW.COLUMN")


ARITHMETIC: dict[type, Callable[[Number, Number], Number]] = {
    ast.Add: _sum,
    ast.Sub: lambda a, b: _sum(a, b, -1),
    ast.Mult: _product,
    ast.Div: _quotient,
}
CHOICES: dict[str, Callable[[list[Number]], Number]] = {
    "min": lambda numbers: min(numbers, key=operator.attrgetter("mean")),
    "max": lambda numbers: max(numbers, key=operator.attrgetter("mean")),
    "mean": _mean,
}
