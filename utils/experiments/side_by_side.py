"""Training speed beside the authors' PyTorch code, a pair of settings at a time.

`compare` starts two processes that take turns, so that neither disturbs the other and what else the
machine does meets both: their ratio is what to read. Nothing of the authors' code is here; a
checkout of github.com/kevin-ssy/FishNet at commit b968f02 is imported from where it lies.
"""

import contextlib
import importlib
import multiprocessing
import os
import sys
import time
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from utils.environment import usable_cores
from utils.models.presets import FishNetConfig, get_preset

REFERENCE = "ours, fast layers, float32"  # what the others are compared with

# name: code, precision, and what is special of it
SETTINGS: dict[str, tuple[str, str, dict[str, bool]]] = {
    "theirs as published: float32, channels first": ("theirs", "float32", {"channels_last": False}),
    "theirs, float32": ("theirs", "float32", {}),
    "theirs, bfloat16": ("theirs", "bfloat16", {}),
    "theirs, float32, compiled": ("theirs", "float32", {"compiled": True}),
    "theirs, bfloat16, compiled": ("theirs", "bfloat16", {"compiled": True}),
    "ours, Keras' layers, float32": ("ours", "float32", {"fast_layers": False}),
    "ours, Keras' layers, mixed_bfloat16": ("ours", "mixed_bfloat16", {"fast_layers": False}),
    REFERENCE: ("ours", "float32", {}),
    "ours, fast layers, mixed_bfloat16": ("ours", "mixed_bfloat16", {}),
}

Window = dict[str, float]  # images_per_second and images_per_cpu_second
_ENDED = (RuntimeError, OSError, EOFError)  # of a process; the last two if it was killed


def missing(authors_code: str | os.PathLike | None) -> str:
    """Why the authors' code cannot be run here; "" if it can.

    Args:
        authors_code: folder of a checkout of it.
    """
    if authors_code is None:
        return "no checkout of the authors' code is given"
    if not Path(authors_code, "models/fishnet.py").is_file():
        return f"{authors_code} has no models/fishnet.py: not a checkout of the authors' code"
    return "" if find_spec("torch") else "PyTorch is not installed"


def compare(
    network: str | list,
    settings: Iterable[str] = tuple(SETTINGS),
    *,
    authors_code: str | os.PathLike | None = None,
    windows: int = 5,
    steps: int = 2,
    batch_size: int = 256,
    cores: int | None = None,
    patience: float = 1800,
) -> list[dict[str, Any]]:
    """Measures settings, each in turns with `REFERENCE`.

    Args:
        network: a preset, or the fields of a `FishNetConfig` as a list.
        settings: names in `SETTINGS`.
        authors_code: folder of a checkout of the authors' code; None: their rows say so.
        windows: measurements of each of the two.
        steps: training steps of a window.
        batch_size: images per step.
        cores: how many of the processor's cores, the last ones, a thread each (Linux); None: all.
        patience: seconds until a setting that is not ready (compiling can take long) is given up.

    Returns:
        A dict for each setting: network, setting, windows, steps, batch_size, cores; lists by
        window of images_per_second, images_per_cpu_second and ratios, of images per CPU second to
        those of the `REFERENCE` beside it; and error, "" or why there are no such lists.
    """
    options = {"windows": windows, "steps": steps, "batch_size": batch_size, "cores": cores}
    place = (network, patience, steps, authors_code, batch_size, cores)
    rows = []
    lost = ""  # why there is no reference any more

    def beside() -> Window:
        nonlocal lost
        try:
            return reference()
        except _ENDED as error:
            lost = _why(error)
            raise

    with contextlib.ExitStack() as processes:
        try:
            reference = processes.enter_context(_process(REFERENCE, *place))
        except _ENDED as error:
            lost = _why(error)
        for name in settings:
            row: dict[str, Any] = {"network": network, "setting": name, **options}
            row["error"] = lost or (missing(authors_code) if SETTINGS[name][0] == "theirs" else "")
            rows.append(row)
            if row["error"]:
                continue
            try:
                with _process(name, *place) as turn:
                    pairs = [(turn(), beside()) for _ in range(windows)]
            except _ENDED as error:
                row["error"] = lost or str(error) or "killed"
            else:
                row |= _by_window(pairs)
    return rows


def _why(error: Exception) -> str:
    return f"{REFERENCE}, beside it: {str(error) or 'killed'}"


def _by_window(pairs: list[tuple[Window, Window]]) -> dict[str, list[float]]:
    found = {name: [window[name] for window, _ in pairs] for name in pairs[0][0]}
    by_cpu = "images_per_cpu_second"
    return found | {"ratios": [window[by_cpu] / other[by_cpu] for window, other in pairs]}


@contextlib.contextmanager
def _process(
    name: str, network: str | list, patience: float, steps: int, *place: Any
) -> Iterator[Callable[[], Window]]:
    """A process that is ready to train, and does so for one window whenever it is called."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=_serve, args=(there, name, network, *place))
    child.start()
    there.close()  # so that its end is noticed here

    def answer() -> Window:
        if not here.poll(patience):
            raise TimeoutError(f"not done after {patience:.0f} s")
        found = here.recv()
        if isinstance(found, Exception):
            raise found
        return found

    def turn() -> Window:
        here.send(steps)
        return answer()

    try:
        answer()
        yield turn
    finally:
        child.kill()
        child.join()


def _serve(
    connection: Connection,
    name: str,
    network: str | list,
    authors_code: str | os.PathLike | None,
    batch_size: int,
    cores: int | None,
) -> None:
    """What such a process does: it makes a step, then measures as many as it is told to."""
    try:
        step = _prepared(name, network, authors_code, batch_size, cores)
        connection.send({})
        while True:
            connection.send(_measure(step, connection.recv(), batch_size))
    except Exception as error:
        connection.send(RuntimeError(f"{type(error).__name__}: {error}".splitlines()[0]))


def _prepared(
    name: str,
    network: str | list,
    authors_code: str | os.PathLike | None,
    batch_size: int,
    cores: int | None,
) -> Callable[[], Any]:
    threads = cores or usable_cores()
    if cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])
    code, precision, options = SETTINGS[name]
    if code == "theirs":
        config = get_preset(network) if isinstance(network, str) else FishNetConfig(*network)
        assert isinstance(config, FishNetConfig), "the authors have no other network"
        step = their_step(
            config, precision, Path(str(authors_code)), batch_size, threads, **options
        )
    else:
        step = _our_step(network, precision, batch_size, threads, **options)
    for _ in range(3):  # traces, compiles, allocates
        step()
    return step


def _measure(step: Callable[[], Any], steps: int, batch_size: int) -> Window:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    images = steps * batch_size
    return {
        "images_per_second": images / (time.perf_counter() - wall),
        "images_per_cpu_second": images / (time.process_time() - cpu),
    }


def _our_step(
    network: str | list, precision: str, batch_size: int, threads: int, fast_layers: bool = True
) -> Callable[[], Any]:
    os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    import tensorflow as tf

    from utils.experiments import benchmark_tasks

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    model = benchmark_tasks.compiled(
        network, batch_size=batch_size, precision=precision, fast_layers=fast_layers
    )
    images, labels = next(iter(benchmark_tasks.same_batch(batch_size)))
    return lambda: model.train_on_batch(images, labels)


def their_network(config: FishNetConfig, authors_code: Path, num_classes: int = 200) -> Any:
    """The authors' network, untrained, with our widths and blocks.

    Args:
        config: widths and blocks.
        authors_code: folder of a checkout of it.
        num_classes: number of classes.

    Returns:
        A `torch.nn.Module` from normalized images (n, 3, height, width) to logits.
    """
    package = types.ModuleType("models")  # its own __init__.py would need torchvision
    package.__path__ = [str(authors_code / "models")]
    sys.modules["models"] = package
    fish = importlib.import_module("models.fishnet").fish
    names = ("network_planes", "num_res_blks", "num_trans_blks")
    sizes = {name: asdict(config)[name] for name in names}
    return fish(**sizes, num_cls=num_classes, num_down_sample=3, num_up_sample=3)


def their_step(
    config: FishNetConfig,
    precision: str,
    authors_code: Path,
    batch_size: int,
    threads: int,
    *,
    channels_last: bool = True,
    compiled: bool = False,
) -> Callable[[], Any]:
    """A training step of the authors' network with our widths and blocks, on constant images.

    Args:
        config: widths and blocks.
        precision: "float32", or "bfloat16" for PyTorch's autocast.
        authors_code: folder of a checkout of it.
        batch_size: images, 64x64.
        threads: of PyTorch.
        channels_last: whether images and weights are laid out so.
        compiled: whether with `torch.compile`.

    Returns:
        A function that does forward pass, backward pass and SGD with momentum and weight decay as
        the authors' main.py, and returns the loss.
    """
    import torch

    torch.set_num_threads(threads)
    model = their_network(config, authors_code).train()
    images = torch.randn(batch_size, 3, 64, 64)
    labels = torch.randint(0, 200, (batch_size,))
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    forward = torch.compile(model) if compiled else model

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits = forward(images)
        loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
