"""What the notebooks of the project hold."""

import ast
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path, kind="code"):
    return [c for c in nbformat.read(path, 4).cells if c.cell_type == kind]


def parsed(cell):
    return ast.parse("\n".join(ln for ln in cell.source.splitlines() if not ln.startswith("%")))
