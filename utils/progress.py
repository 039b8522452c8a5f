"""Progress bars: in a notebook one output that is replaced, in a terminal one line.

papermill shows nothing of what a notebook prints. `repeat_in_terminal` repeats it where papermill
was started, with the bars.
"""

import io
import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import tqdm

_ERASE = "\r\x1b[K"  # what stands in the terminal's last line
_COLUMNS = 100  # of a bar, at most


class Terminal:
    """A terminal that others draw their bars in, too: text begins in an empty line.

    Args:
        file: the open terminal.
    """

    def __init__(self, file: TextIO) -> None:
        self.file, self.encoding, self.after_a_bar = file, file.encoding, True
        self.columns = min(os.get_terminal_size(file.fileno()).columns or _COLUMNS, _COLUMNS)

    def write(self, text: str) -> None:
        """Writes text, in place of the bar, if one stands in the last line and goes on."""
        goes_on = self.after_a_bar and text != "\n"
        self.file.write(_ERASE + text if goes_on else text)
        self.after_a_bar = text.startswith("\r") or text.endswith("\n")
        self.file.flush()

    def flush(self) -> None:
        """Does nothing: all is written."""


def repeat_in_terminal() -> None:
    """Repeats what this notebook prints in the terminal in which papermill was started.

    Jupyter's kernels also know the terminal of their server: it stays as it is.
    """
    if getattr(sys.stdout, "echo", True) is not None or "JPY_SESSION_NAME" in os.environ:
        return
    try:
        file = sys.stderr.fileno()  # what it was before the kernel took its place
    except OSError:  # on Windows it takes none
        file = sys.__stderr__.fileno() if sys.__stderr__ else -1
    if os.isatty(file):
        streams: tuple[Any, ...] = (sys.stdout, sys.stderr)
        streams[0].echo = streams[1].echo = Terminal(os.fdopen(os.dup(file), "w"))


class _Nowhere(io.TextIOBase):
    encoding = "utf-8"  # for what the notebook shows

    def write(self, text: str) -> int:
        return len(text)


class Bar(tqdm):
    """A `tqdm` of which a saved notebook keeps one line; drawn only where somebody can see it.

    Args:
        iterable: as `tqdm`'s.
        looked_at: whether this process has an output that somebody may see.
        **options: of `tqdm`.
    """

    monitor_interval = 0  # all is drawn by the thread that counts

    def __init__(
        self, iterable: Iterable | None = None, *, looked_at: bool = True, **options: Any
    ) -> None:
        self.output: Any = None  # of the notebook's cell
        options = {"mininterval": 0.5, "delay": 0.5, "ncols": _COLUMNS, **options}
        if not looked_at:
            options["disable"] = True
        elif _in_kernel():
            from IPython.display import display

            self.output = display({"text/plain": ""}, raw=True, display_id=True)
            terminal = getattr(sys.stderr, "echo", None)
            options["file"] = terminal or _Nowhere()
            options["ncols"] = getattr(terminal, "columns", _COLUMNS)
        else:
            options |= {"disable": None, "dynamic_ncols": True}
        super().__init__(iterable, **options)

    def begin(self, description: str, total: int, done: int = 0) -> None:
        """Begins anew, with something of which a part may be done."""
        self.set_description_str(description, refresh=False)
        self.set_postfix_str("", refresh=False)
        self.reset(total)
        self.initial = self.n = self.last_print_n = done

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Shows the bar as it is."""
        line = str(self) if msg is None else msg
        if self.output:
            self.output.update({"text/plain": line}, raw=True)
        return super().display(line, pos)


def _in_kernel() -> bool:
    """Whether this is a notebook's process."""
    ipython = sys.modules.get("IPython")
    return hasattr(ipython.get_ipython(), "kernel") if ipython else False
