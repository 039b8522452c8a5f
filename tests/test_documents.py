"""README and docs: what they show runs, and what they link is there."""

import contextlib
import re
from pathlib import Path

import keras
import nbformat
import pytest

DOCUMENTS = [Path("README.md"), *sorted(Path("docs").glob("*.md"))]
SNIPPETS = {
    f"{path.name} {number}": code
    for path in DOCUMENTS
    for number, code in enumerate(
        re.findall(r"^```python\n(.*?)^```", path.read_text(), re.S | re.M)
    )
}


@contextlib.contextmanager
def eagerly():
    """One step needs no graph."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.mark.tracing
@pytest.mark.parametrize("name", SNIPPETS)
def test_snippets_run(name):
    if "keras_hub" in SNIPPETS[name]:
        pytest.importorskip("keras_hub")
    found = {}
    with eagerly():
        exec(compile(SNIPPETS[name], name, "exec"), found)
    if name == "results.md 0":
        assert len(found["epochs"].loc["simple-course-30ep-seed0"]["val_top1"]) == 30
        assert len(found["runs"]) > 100
        return
    assert [value for value in found.values() if isinstance(value, keras.Model)]
    if name == "README.md 0":
        assert found["model"].output_shape == (None, 10)
        assert found["model"].optimizer.iterations == 1
    if name == "README.md 1":
        assert found["segmenter"].output_shape == (None, 64, 64, 3)


def test_there_are_snippets_for_both_and_they_are_short():
    lengths = [len(code.splitlines()) for name, code in SNIPPETS.items() if "README" in name]
    assert len(lengths) == 2
    assert max(lengths) <= 12


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    text = path.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        file, _, heading = target.partition("#")
        linked = path.parent / file if file else path
        assert linked.exists(), target
        headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.M) if heading else []
        anchors = {h.lower().replace(" ", "-").replace(",", "") for h in headings}
        assert not heading or heading in anchors, target


def test_what_the_readme_folds_away_ends():
    text = Path("README.md").read_text()
    assert text.count("<details>") == text.count("</details>") > 0


PROSE = [
    *(*DOCUMENTS, Path("report/weights/README.md"), Path("report/report.typ")),
    *(*sorted(Path("report/parts").glob("*.typ")), *sorted(Path("notebooks").glob("*.ipynb"))),
]


@pytest.mark.parametrize("path", PROSE, ids=str)
def test_one_term_for_one_thing(path):
    """The second word of each pair is the one to use."""
    terms = {"made anew": "re-created", "the fish": "FishNet",
             "on val": "on the validation set", "re-does": "revisits",
             "images a class": "per class",
             "seconds an epoch": "per epoch", "learned by heart": "overfits"}  # fmt: skip
    if path.suffix == ".ipynb":
        text = "\n".join(
            cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown"
        )
    else:
        text = path.read_text()
    used = [term for term in terms if re.search(rf"\b{term}\b", text, re.I)]
    assert not used, {term: terms[term] for term in used}
