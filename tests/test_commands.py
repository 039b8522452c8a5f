import argparse

import pytest

from utils.commands import one_line_errors


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError, ImportError, RuntimeError])
def test_what_is_wrong_is_one_line(error, capsys):
    with pytest.raises(SystemExit) as ended, one_line_errors(argparse.ArgumentParser()):
        raise error("There is no such run.")
    assert ended.value.code == 1
    assert capsys.readouterr() == ("", "There is no such run.\n")


def test_a_fault_of_the_code_keeps_its_traceback():
    with pytest.raises(KeyError), one_line_errors(argparse.ArgumentParser()):
        raise KeyError("top1")
