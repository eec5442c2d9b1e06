"""Python source to a syntax tree, from any thread.

CPython before 3.11.8 and 3.12.2 counts the parser's nesting in one place for all threads (python/cpython#106905): when the
garbage collector runs Python code in the middle of a parse, as pytest with hypothesis makes it do, another thread's parse
ends this one with a SystemError.
"""

import ast
import threading

_ONE_AT_A_TIME = threading.Lock()


def parse(source, mode="exec"):
    """`ast.parse(source, mode=mode)`, with what that raises."""
    with _ONE_AT_A_TIME:
        return ast.parse(source, mode=mode)
