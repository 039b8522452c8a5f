"""What the command lines of the package share."""

import argparse
import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def one_line_errors(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Ends a command with status 1 and its error's message alone, without a traceback.

    Args:
        parser: of the command.
    """
    try:
        yield
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        parser.exit(1, f"{error}\n")
