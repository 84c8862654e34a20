"""Rows of a table of cases that match a condition, such as "age > 60 and sex == 'F'".

The condition is parsed and evaluated here: it can compare columns with values and nothing else, so any text is safe.
"""

import ast
import operator
import re
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from fedlab.core.registry import nearest
from fedlab.core.typing import Bools, Ints
from fedlab.data.columns import NUMBERS, kind_of
from fedlab.data.per_case import chosen_rows

EXAMPLE = "age > 60 and sex == 'F'"
QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`([^`]*)`""")  # text, or a column in backticks
FEW = 6  # values of a column that a message lists
COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
TURNED: dict[type, type] = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}  # 60 < age: age > 60


def matching(table: pd.DataFrame, where: str, classes: Collection[str], members: Callable[[str], Bools]) -> Bools:
    """Which rows (n,) of a table of cases match a condition.

    It compares columns with values (==, !=, <, <=, >, >=, in, not in) or asks for missing ones (is None, is not None),
    joined by and, or, not. A column of booleans is a condition itself; a column whose name is no Python name is written
    in backticks. Labels are compared with the names of classes, too. A missing value satisfies no comparison.

    members: which rows belong to one of the classes. Raises ValueError for what it cannot read.
    """
    if not isinstance(where, str) or not where.strip():
        raise ValueError(f"where is {where!r}: write a condition, such as {EXAMPLE!r}")
    names: dict[str, str] = {}  # stand-in -> column in backticks

    def stand_in(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0]
        names[f"_column_{len(names)}_"] = found[1]
        return list(names)[-1]

    try:
        tree = ast.parse(QUOTED.sub(stand_in, where).strip(), mode="eval").body
        return _Condition(table, where, classes, members, names).rows(tree)
    except _RefusedError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        hint = "; equality is ==" if re.search(r"(?<![=!<>])=(?!=)", where) else ""
        raise ValueError(f"cannot read where={where!r}: write a condition, such as {EXAMPLE!r}{hint}") from None


def selected(cases: Any, where: str | None, rows: ArrayLike | None) -> Ints:
    """Positions (m,) of the cases among `rows`, all by default, that match a condition; ValueError if there is none.

    rows: positions, in the order in which they are returned, or a mask.
    """
    found = np.arange(len(cases)) if rows is None else chosen_rows(rows, cases.table["case"])
    if where is not None:
        found = found[matching(cases.table, where, cases.classes, cases.members)[found]]
    if not len(found):
        held = "; ".join(filter(None, (_held(cases.table[name]) for name in cases.table if str(name) in str(where))))
        reason = "rows names no case" if where is None else f"no case matches where={where!r}"
        raise ValueError(f"{reason}{f' ({held})' if held else ''}: choose others")
    return found


def _held(values: pd.Series) -> str:
    """What a column holds, in some words: "age is 20 to 89"; empty for many texts."""
    known = values.dropna()
    if kind_of(values) in (*NUMBERS, "datetime64", "date") and len(known):
        return f"{values.name} is {known.min()} to {known.max()}"
    several = known.unique()
    return f"{values.name} is {' or '.join(map(repr, several.tolist()))}" if 0 < len(several) <= FEW else ""


class _RefusedError(ValueError):
    """A condition that can be read, but not be evaluated."""


class _Condition:
    """A condition on a table. names: stand-in -> column, for those in backticks."""

    def __init__(
        self,
        table: pd.DataFrame,
        where: str,
        classes: Collection[str],
        members: Callable[[str], Bools],
        names: dict[str, str],
    ) -> None:
        self.table, self.where, self.classes, self.members, self.names = table, where, classes, members, names

    def rows(self, node: ast.expr) -> Bools:
        """The rows that match an expression."""
        match node:
            case ast.BoolOp(op=joined, values=values):
                every = [self.rows(value) for value in values]
                return np.logical_and.reduce(every) if isinstance(joined, ast.And) else np.logical_or.reduce(every)
            case ast.BinOp(left=left, op=ast.BitAnd() | ast.BitOr() as joined, right=right):
                both = self.rows(left), self.rows(right)
                return both[0] & both[1] if isinstance(joined, ast.BitAnd) else both[0] | both[1]
            case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand):
                return ~self.rows(operand)
            case ast.Compare(left=left, ops=ops, comparators=others):
                sides = [left, *others]
                steps = zip(sides, ops, sides[1:], strict=False)
                return np.logical_and.reduce([self._compared(*step) for step in steps])
            case ast.Name():
                values = self._column(node)
                if kind_of(values) == "boolean":
                    return values.fillna(False).to_numpy(bool)
                raise self._refused(f"column {values.name!r} is no condition: compare it with a value")
        raise self._refused(f"{ast.unparse(node)!r} is no condition")

    def _compared(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Bools:
        """The rows that satisfy one comparison of a column with a value, in either order."""
        if any(isinstance(side, ast.BinOp) and isinstance(side.op, ast.BitAnd | ast.BitOr) for side in (left, right)):
            raise self._refused("write and, or instead of &, |")  # Python reads a > 1 & b > 2 as a > (1 & b) > 2
        if not isinstance(left, ast.Name) and isinstance(right, ast.Name) and not isinstance(op, ast.In | ast.NotIn):
            left, right, op = right, left, TURNED.get(type(op), type(op))()
        if not isinstance(left, ast.Name):
            raise self._refused(f"{ast.unparse(left)!r} is no column: compare a column with a value")
        values, wanted = self._column(left), self._value(right)
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(wanted, list | tuple | set):
                raise self._refused(f"write a list after in, such as [{wanted!r}]")
            each = [self._equal(values, value) for value in wanted]
            found = np.logical_or.reduce(each) if each else np.zeros(len(values), bool)
            return found if isinstance(op, ast.In) else ~found & values.notna().to_numpy()
        if wanted is None or isinstance(op, ast.Is | ast.IsNot):
            if wanted is not None or not isinstance(op, ast.Is | ast.IsNot | ast.Eq | ast.NotEq):
                raise self._refused("write is None or is not None for missing values, == for all others")
            return values.isna().to_numpy() == isinstance(op, ast.Is | ast.Eq)
        if isinstance(wanted, list | tuple | set):
            raise self._refused(f"compare {values.name!r} with a list by in")
        if self._names_a_class(values, wanted):
            if not isinstance(op, ast.Eq | ast.NotEq):
                raise self._refused("classes have no order: compare the label with a class by == or !=")
            return self.members(wanted) == isinstance(op, ast.Eq)
        return _known(values, self._fitting(values, wanted), COMPARISONS[type(op)])

    def _equal(self, values: pd.Series, wanted: Any) -> Bools:
        """The rows with a value, or of a class."""
        if self._names_a_class(values, wanted):
            return self.members(wanted)
        return _known(values, self._fitting(values, wanted), operator.eq)

    def _names_a_class(self, values: pd.Series, wanted: Any) -> bool:
        """Whether a label is compared with the name of a class; ValueError for a class that does not exist."""
        if values.name != "label" or not isinstance(wanted, str):
            return False
        if wanted not in self.classes:
            raise self._refused(f"there is no class {wanted!r}: {nearest(wanted, self.classes)}")
        return True

    def _column(self, node: ast.Name) -> pd.Series:
        """The column of a name; ValueError with the nearest if there is none."""
        name = self.names.get(node.id, node.id)
        if name not in self.table:
            known = nearest(name, map(str, self.table.columns))
            raise self._refused(f"there is no column {name!r}: {known} Text is written in quotes")
        return self.table[name]

    def _value(self, node: ast.expr) -> Any:
        """The value of a literal."""
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            if isinstance(node, ast.Name) and node.id not in self.table and node.id not in self.names:
                text = f"{node.id!r} is neither a column nor a value: write text in quotes"
            else:
                text = f"{ast.unparse(node)!r} is no value: compare a column with a number or a text in quotes"
            raise self._refused(text) from None

    def _fitting(self, values: pd.Series, wanted: Any) -> Any:
        """A value of the kind that a column holds; ValueError if it is of another kind."""
        kind = kind_of(values)
        is_number = isinstance(wanted, int | float) and not isinstance(wanted, bool)
        if kind in ("datetime64", "timedelta64", "date") and isinstance(wanted, str):
            try:
                zone = getattr(values.dtype, "tz", None)
                return pd.Timedelta(wanted) if kind == "timedelta64" else pd.Timestamp(wanted, tz=zone)
            except ValueError:
                raise self._refused(f"{wanted!r} is no date: write it as '2024-12-31'") from None
        fits = {
            "string": isinstance(wanted, str),
            "boolean": isinstance(wanted, bool),
            "empty": True,
            **dict.fromkeys(NUMBERS, is_number),
        }
        if not fits.get(kind, False):
            held = {"string": "text", "boolean": "True and False"}.get(kind, "numbers" if kind in NUMBERS else "dates")
            example = values.dropna().iloc[0]
            example = example if isinstance(example, str) else getattr(example, "item", lambda: str(example))()
            raise self._refused(f"column {values.name!r} holds {held} such as {example!r}, not {wanted!r}")
        return wanted

    def _refused(self, reason: str) -> ValueError:
        """The error of a condition that cannot be evaluated."""
        return _RefusedError(f"cannot use where={self.where!r}: {reason.rstrip('.')}")


def _known(values: pd.Series, wanted: Any, compare: Callable[[Any, Any], Any]) -> Bools:
    """Compare the known values of a column; False where one is missing."""
    found = np.zeros(len(values), bool)
    there = values.notna().to_numpy()
    known = values[there]
    if kind_of(values) == "date":
        known = pd.to_datetime(known)
    elif isinstance(values.dtype, pd.CategoricalDtype):
        known = known.astype(values.cat.categories.dtype)
    found[there] = np.asarray(compare(known, wanted), bool)
    return found
