"""Tests of LeetCodeDataset, taken apart: which calls the program has to evaluate, and what their values must satisfy.

`check(candidate)` is a list of asserts. The calls of `candidate` go to the sandbox as source text; the asserts are decided
here, by a small evaluator over plain data, so that the process that runs a model's code neither knows what is expected nor
has a say in the verdict. A check that is not a list of asserts over known operations is refused (Unsupported): running it
beside the model's code would let that code decide.
"""

import ast
import functools
import math
import operator
from collections import deque
from dataclasses import dataclass

from hybrid_lora.grading import arithmetic
from hybrid_lora.grading.parsing import parse
from hybrid_lora.grading.values import UNFIT, Linked, of_keys


class Unsupported(Exception):
    """The test's text is of a form that cannot be decided outside the program's process."""


@dataclass(frozen=True)
class Plan:
    """calls: source text of every call, in order; checks: one expression per assert, which uses the next of the values;
    numbers: of the assert (from 1) that each call belongs to."""

    calls: tuple
    checks: tuple
    numbers: tuple


@functools.lru_cache(maxsize=512)
def plan(test):
    """The Plan of a test's text; Unsupported if it has another form."""
    try:
        tree = parse(test)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Unsupported(f"does not parse ({type(error).__name__})") from None
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "check"]
    if len(functions) != 1 or len(tree.body) != 1 or len(functions[0].args.args) != 1:
        raise Unsupported("is not one function check(candidate)")
    name = functions[0].args.args[0].arg
    source = _Source(test)
    calls, checks, numbers = [], [], []
    for number, statement in enumerate(functions[0].body, 1):
        if isinstance(statement, ast.Pass) or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
            continue
        if not isinstance(statement, ast.Assert):
            raise Unsupported(f"statement {number} is no assert")
        found = list(_calls(statement.test, name))
        if not found:
            raise Unsupported(f"assert {number} does not call the program")
        calls += ["candidate" + source.text(call)[len(name) :] for call in found]
        checks.append(statement.test)
        numbers += [len(checks)] * len(found)
        _check_form(statement.test, name, number)
    if not checks:
        raise Unsupported("has no assert")
    return Plan(tuple(calls), tuple(checks), tuple(numbers))


def first_failure(checks, values):
    """Number (from 1) of the first assert that does not hold, None if all do. values: decoded, one per call in order."""
    remaining = iter(values)
    for number, check in enumerate(checks, 1):
        try:
            holds = bool(_evaluate(check, remaining))
        except UNFIT:
            holds = False
        if not holds:
            return number
    return None


class _Source:
    """Cuts a node's text out of the source; ast.get_source_segment splits the whole text anew for each node."""

    def __init__(self, text):
        self.lines = text.encode().splitlines(keepends=True)

    def text(self, node):
        first, last = node.lineno - 1, node.end_lineno - 1
        if first == last:
            return self.lines[first][node.col_offset : node.end_col_offset].decode()
        middle = self.lines[first + 1 : last]
        return b"".join([self.lines[first][node.col_offset :], *middle, self.lines[last][: node.end_col_offset]]).decode()


def _is_call(node, name):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def _calls(node, name):
    """The outermost calls of the program, in the order in which `_evaluate` meets them."""
    if _is_call(node, name):
        yield node
        return
    for child in ast.iter_child_nodes(node):
        yield from _calls(child, name)


def _linked(values):
    return Linked("linked", tuple(values)) if values else None


def _tree(values):
    """LeetCode's level order to preorder."""
    if not values:
        return None
    root = [values[0], None, None]
    queue, i = deque([root]), 1
    while queue:
        node = queue.popleft()
        for side in (1, 2):
            if i < len(values) and values[i] is not None:
                node[side] = [values[i], None, None]
                queue.append(node[side])
            i += 1
    order, todo = [], [root]
    while todo:
        node = todo.pop()
        order.append(node and (node[0],))
        if node is not None:
            todo += [node[2], node[1]]
    return Linked("tree", tuple(order))


_FUNCTIONS = {f.__name__: f for f in (abs, all, any, bool, float, int, len, list, max, min)}
_FUNCTIONS |= {kind.__name__: of_keys(kind) for kind in (dict, frozenset, set)}
_FUNCTIONS |= {f.__name__: f for f in (round, sorted, str, sum, tuple, math.isclose)}
_FUNCTIONS |= {"list_node": _linked, "tree_node": _tree, "is_same_list": operator.eq, "is_same_tree": operator.eq}
_NAMES = {"inf": math.inf, "nan": math.nan}
_OPERATORS = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
    **arithmetic.OPERATORS,
    ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_,
}  # fmt: skip


def _check_form(node, name, number):
    """Unsupported unless `_evaluate` can decide this assert; decided before any program is run."""
    if _is_call(node, name) or isinstance(node, ast.Constant):
        return
    known = isinstance(node, ast.List | ast.Tuple | ast.Set | ast.BoolOp | ast.Subscript)
    known = known or (isinstance(node, ast.Dict) and None not in node.keys)
    known = known or (isinstance(node, ast.Name) and node.id in _NAMES)
    known = known or (isinstance(node, ast.Compare) and all(type(op) in _OPERATORS for op in node.ops))
    known = known or (isinstance(node, ast.BinOp | ast.UnaryOp) and type(node.op) in _OPERATORS)
    if isinstance(node, ast.Call):
        known = _function(node) is not None and not node.keywords
    if not known:
        raise Unsupported(f"assert {number} uses {type(node).__name__}, which is not understood")
    for child in _operands(node):
        _check_form(child, name, number)


def _function(call):
    if isinstance(call.func, ast.Name):
        return _FUNCTIONS.get(call.func.id)
    if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) and call.func.value.id == "math":
        return _FUNCTIONS.get(call.func.attr) if call.func.attr == "isclose" else None
    return None


def _operands(node):
    """Child expressions, in the order of `_calls`."""
    skipped = node.func if isinstance(node, ast.Call) else None
    return [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr) and child is not skipped]


def _evaluate(node, values):
    if isinstance(node, ast.Call) and _function(node) is None:
        return next(values)  # the program's call: nothing else passed _check_form
    try:
        return ast.literal_eval(node)
    except ValueError:
        pass
    if isinstance(node, ast.Name):
        return _NAMES[node.id]
    if isinstance(node, ast.Dict):
        flat = [_evaluate(child, values) for child in _operands(node)]
        return dict(zip(flat[: len(node.keys)], flat[len(node.keys) :]))
    parts = [_evaluate(child, values) for child in _operands(node)]
    if isinstance(node, ast.Call):
        return _function(node)(*parts)
    if isinstance(node, ast.Compare):
        return all(_OPERATORS[type(op)](a, b) for op, a, b in zip(node.ops, parts, parts[1:]))
    if isinstance(node, ast.BoolOp):
        return all(parts) if isinstance(node.op, ast.And) else any(parts)
    if isinstance(node, ast.BinOp | ast.UnaryOp):
        return _OPERATORS[type(node.op)](*parts)
    if isinstance(node, ast.Subscript):
        return parts[0][parts[1]]
    return {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)](parts)
