"""Docstrings are read from source, without importing what they document, which may take seconds. No torch, no ray."""

from __future__ import annotations

import ast
import re
from importlib.util import find_spec
from pathlib import Path

from tuner import text


def docstring(path: str) -> str | None:
    """That of the class or function at a dotted path; ``None`` where there is none, or no such source."""
    module, _, name = path.rpartition(".")
    try:
        spec = find_spec(module)
        source = Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""
        tree = ast.parse(source)
    except Exception:  # a package is imported to find a module in it, and may be a user's own
        return None
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return ast.get_docstring(node)
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                if name == (alias.asname or alias.name) and f"{node.module}.{alias.name}" != path:
                    return docstring(f"{node.module}.{alias.name}")
    return None


def first_paragraph(doc: str | None) -> str | None:
    """As one line, without markup."""
    if not doc:
        return None
    return text.line(re.sub(r":\w+:`([^`]+)`", r"\1", doc.strip().partition("\n\n")[0]).replace("``", ""))
