"""What papermill passes to a notebook."""

import pytest

from utils.fields import check_parameters

DEFAULTS = 'epochs = None\nmeasure = False\nseeds = [0, 1, 2]\npreset = "simple"\n'


def passed(cell):
    notebook = {"In": ["", "import os", DEFAULTS, f"# Parameters\n{cell}", "check_parameters()"]}
    exec(f"{DEFAULTS}{cell}", notebook)
    check_parameters(notebook)
    return notebook


def test_a_notebook_that_runs_as_a_script_has_no_cells():
    check_parameters({"epochs": 2})


def test_a_name_that_a_notebook_does_not_have_is_refused():
    with pytest.raises(
        ValueError,
        match=r"A parameter must be one of epochs, measure, seeds, preset\. Received: 'epoch'",
    ):
        passed("epochs = 2\nepoch = 1")


@pytest.mark.parametrize(
    ("given", "read"), [('"false"', False), ('"True"', True), ("0", False), ("True", True)]
)
def test_flags_mean_what_they_say(given, read):
    assert passed(f"measure = {given}")["measure"] is read


def test_a_flag_that_is_neither_is_refused():
    with pytest.raises(ValueError, match="measure must be true or false. Received: 'no'"):
        passed('measure = "no"')


@pytest.mark.parametrize(
    ("given", "read"),
    [("3", [3]), ('"a"', ["a"]), ('"[0.5, 1]"', [0.5, 1]), ("[1, 2]", [1, 2]),
     ('"[a, b]"', ["a", "b"]), ('"on"', ["on"])],
)  # fmt: skip
def test_lists(given, read):
    assert passed(f"seeds = {given}")["seeds"] == read


def test_a_list_that_ends_nowhere_is_refused():
    with pytest.raises(
        ValueError, match=r"seeds must be one value or a list .* Received: '\[0, 1'"
    ):
        passed('seeds = "[0, 1"')


def test_numbers_that_are_no_literals_are_left_to_what_takes_them():
    assert passed("epochs = float('inf')")["epochs"] == float("inf")


def test_in_a_kernel_that_ran_the_notebook_before_what_is_set_now_counts():
    before, now = "# Parameters\nmeasure = True", '# Parameters\nmeasure = "false"\nseeds = 3'
    cells = ["", DEFAULTS, before, "check_parameters()", DEFAULTS, now, "check_parameters()"]
    notebook = {"In": cells, "measure": "false", "seeds": 3}
    check_parameters(notebook)
    assert (notebook["measure"], notebook["seeds"]) == (False, [3])


def test_without_papermill_nothing_is_changed():
    notebook = {"In": ["", DEFAULTS, 'measure = "no"\nepoch = 1'], "measure": "no"}
    before = dict(notebook)
    check_parameters(notebook)
    assert notebook == before
