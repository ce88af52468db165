"""List the long functions and modules of the package: places to look at, never a reason to fail.

Length is a hint that a body has more than one level of abstraction; whether it has is for a reader to judge.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LONG_BODY = 45
LONG_MODULE = 400


def long_places(module: Path) -> Iterator[str]:
    """Yield one line for the module and for each function of it that is longer than it should be."""
    source = module.read_text(encoding="utf-8")
    place = module.relative_to(ROOT)
    lines = len(source.splitlines())
    if lines > LONG_MODULE:
        yield f"{place}: {lines} lines"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            statements = node.body[1:] if ast.get_docstring(node) else node.body
            lines = statements[-1].end_lineno - statements[0].lineno + 1 if statements else 0
            if lines > LONG_BODY:
                yield f"{place}:{node.lineno} {node.name}: a body of {lines} lines"


def main() -> None:
    """Print the list, or that there is none."""
    places = [line for module in sorted(ROOT.glob("worker/**/*.py")) for line in long_places(module)]
    print(f"Places to look at (bodies over {LONG_BODY} lines, modules over {LONG_MODULE}): {len(places) or 'none'}")
    for line in places:
        print(f"  {line}")


if __name__ == "__main__":
    main()
