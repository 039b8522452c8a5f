"""The notebooks as they are read: what is said at the top, how soon a figure comes, captions."""

import ast
import re
from itertools import pairwise

import nbformat
import pytest
from books import NOTEBOOKS, cells, parsed

from utils.data.manifest import DATASETS
from utils.training.recipes import OPTIMIZERS, RECIPES

MOST_WORDS = 120  # between two outputs


def prose(cell):
    """A Markdown cell without code, tables and badges."""
    text = re.sub(r"^```.*?^```", "", cell.source, flags=re.S | re.M)
    return re.sub(r"^(\||\[!\[).*$", "", text, flags=re.M)


def shows(cell):
    return [
        o for o in cell.get("outputs", []) if any("image" in kind for kind in o.get("data", {}))
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
class TestNotebook:
    def test_says_first_what_is_seen_how_long_it_takes_and_what_it_touches(self, path):
        bold = re.findall(r"\*\*(.+?)\*\*", cells(path, "markdown")[0].source)
        assert bold[:4] == ["You will see", "Time", "Reads", "Writes"]

    def test_few_words_between_two_outputs(self, path):
        everything = nbformat.read(path, 4).cells
        words, last = 0, max(i for i, c in enumerate(everything) if c.get("outputs"))
        for cell in everything[: last + 1]:
            if cell.cell_type == "code":
                words = 0 if cell.outputs else words
                continue
            words += len(re.findall(r"\S*\w\S*", prose(cell)))
            assert words <= MOST_WORDS, (words, cell.source)

    def test_a_figure_follows_the_parameters(self, path):
        before = nbformat.read(path, 4).cells
        start = next(i for i, c in enumerate(before) if "QUICK" in c.source)
        figure = next(i for i, c in enumerate(before) if i > start and shows(c))
        assert figure <= start + 2
        text = "\n".join(c.source for c in before[start + 1 : figure] if c.cell_type == "markdown")
        assert len(text.split()) <= 80

    def test_a_caption_is_below_each_figure(self, path):
        everything = nbformat.read(path, 4).cells
        for cell, following in pairwise(everything):
            if shows(cell):
                assert re.match(r"\*[^*]", following.source), cell.source

    def test_no_image_is_taken_from_a_folder(self, path):
        """Colab shows none."""
        for cell in cells(path, "markdown"):
            assert not re.search(r"!\[[^\]]*\]\((?!https://)", cell.source)

    def test_streams_are_saved_as_a_terminal_shows_them(self, path):
        for cell in cells(path):
            names = [o.get("name") for o in cell.outputs]  # None: no stream
            assert not any(a and a == b for a, b in pairwise(names))
            assert not any("\r" in o.get("text", "") for o in cell.outputs)

    def test_tables_have_at_most_eight_columns(self, path):
        for cell in cells(path):
            for output in cell.outputs:
                html = output.get("data", {}).get("text/html", "")
                for row in re.findall(r"<tr.*?</tr>", html, re.S):
                    assert len(re.findall("<t[hd]", row)) <= 8, cell.source

    def test_there_are_three_exercises(self, path):
        (text,) = (c.source for c in cells(path, "markdown") if "**Exercises.**" in c.source)
        asked = text[text.index("**Exercises.**") :]
        assert re.findall(r"\((\d)\) ", asked) == ["1", "2", "3"]


def parameters(path):
    (tagged,) = (c for c in cells(path) if "parameters" in c.metadata.get("tags", []))
    return {n.targets[0].id: ast.literal_eval(n.value) for n in parsed(tagged).body}


def test_run_all_changes_no_committed_table_or_measurement():
    switches = {"update_tables", "measure", "measure_costs"}
    found = [(p.stem[:2], n) for p in NOTEBOOKS for n in switches & parameters(p).keys()]
    assert sorted(found) == [
        ("02", "measure_costs"), ("04", "update_tables"), ("05", "measure"),
        ("05", "update_tables"), ("06", "update_tables"), ("07", "update_tables"),
    ]  # fmt: skip
    for path in NOTEBOOKS:
        assert not any(parameters(path).get(name) for name in switches)


def test_03_explains_each_of_its_parameters():
    text = "\n".join(c.source for c in cells(NOTEBOOKS[2], "markdown"))
    explained = set(re.findall(r"`(\w+)`", text[text.index("## All parameters") :]))
    assert not parameters(NOTEBOOKS[2]).keys() - explained
    choices = set(re.findall(r"`([\w-]+)`", text))
    assert not {*RECIPES, *OPTIMIZERS, *DATASETS} - choices


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_tables_are_headed_by_words(path):
    """Names of parameters and layers, which the text explains, stand in the rows only."""
    for cell in cells(path):
        for output in cell.outputs:
            html = output.get("data", {}).get("text/html", "")
            heads = re.findall(r"<th[^>]*>([^<]*)</th>", html.partition("<tbody>")[0])
            assert not [head for head in heads if "_" in head], cell.source
