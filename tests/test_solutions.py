"""The solutions of the exercises print what is written below them."""

import re
from pathlib import Path

import pytest

TEXT = Path("notebooks/solutions/README.md").read_text()
SECTIONS = {part.splitlines()[0]: part for part in TEXT.split("\n## ")[1:]}


@pytest.mark.tracing
@pytest.mark.parametrize("section", SECTIONS)
def test_blocks_print_what_is_below_them(section, capsys):
    found, seen = (
        re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", SECTIONS[section], re.S | re.M),
        {},
    )
    assert len(found) == SECTIONS[section].count("```python") > 1
    for code, printed in found:
        exec(compile(code, section, "exec"), seen)
        assert capsys.readouterr().out == printed


def test_each_exercise_of_01_to_04_has_one():
    assert [name[:2] for name in SECTIONS] == ["01", "02", "03", "04"]
    for part in SECTIONS.values():
        assert re.findall(r"^\*\*\((\d)\)\*\* ", part, re.M) == ["1", "2", "3"]
