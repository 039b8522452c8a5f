"""The machine and the packages that a notebook or a run finds, and how Keras is set there."""

import contextlib
import os
import platform
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from utils.fields import check_choice
from utils.progress import repeat_in_terminal

# The public repository. Badges and bootstrap cells repeat it; a test holds them to this line.
REPOSITORY = "fishnet-keras/fishnet-tiny-imagenet"

# A folder for the shortened runs of the tests; only conftest.py sets it.
QUICK = os.environ.get("FISHNET_QUICK")

DRIVE = "/content/drive"  # where Colab mounts Google Drive
WITHOUT_GPU = (
    "All of it runs without a GPU. Two cores of a server take a quarter of an hour for the eight "
    "epochs of 03_train, a few minutes with dataset = 'tiny-shapes'; 06_search and "
    "07_region_and_pixel take hours where they find no results. Colab's two cores take longer: "
    "03_train says how long after its first steps. For a GPU: Runtime → Change runtime type → T4 "
    "GPU, then start again."
)

# Colab is itself the notebook server, and nobody runs tests from a cell.
NOT_IN_A_NOTEBOOK = {"jupyterlab", "papermill", "nbval"}


def missing_requirements(path: str | os.PathLike = "requirements.txt") -> list[str]:
    """Lines of a requirements file that the installed packages do not satisfy.

    Args:
        path: the requirements file.

    Returns:
        List of requirement strings, without what only serves outside of notebooks.
    """
    from packaging.requirements import Requirement

    missing = []
    for line in Path(path).read_text().splitlines():
        line = line.partition("#")[0].strip()
        if not line or line.startswith("-"):
            continue
        requirement = Requirement(line)
        if requirement.name in NOT_IN_A_NOTEBOOK:
            continue
        version = _version(requirement.name)
        if version is None or version not in requirement.specifier:
            missing.append(str(requirement))
    return missing


def prepare() -> None:
    """Installs what is missing (in Colab only) and says what the notebook runs on."""
    missing = missing_requirements()
    in_colab = "google.colab" in sys.modules
    if missing and in_colab:
        print(f"Installing {', '.join(missing)}: a minute or two.", flush=True)
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", *missing], check=True)
        loaded = [line for line in missing if _module(line) in sys.modules]
        if loaded:
            print(f"Runtime → Restart session, then start again: loaded before is {loaded[0]}.")
    elif missing:
        print(f"Missing or old: {', '.join(missing)}. Try: pip install -r requirements.txt")
    repeat_in_terminal()
    with _quiet_start():
        check_backend()
        from utils.devices import join_processes

        join_processes()
        found = describe()
    print(
        f"Python {found['python']}, Keras {found['keras']} on {found['backend']}, "
        f"{found['cpu_count']} CPU cores; "
        + (f"GPU: {found['device']}" if has_gpu() else f"no GPU found, using {found['device']}")
    )
    if in_colab and not has_gpu():
        print(WITHOUT_GPU)


def check_backend() -> None:
    """Refuses Keras backends with which nothing here is trained.

    Raises:
        ValueError: KERAS_BACKEND is another one than TensorFlow's or JAX's.
    """
    import keras

    check_choice("KERAS_BACKEND", keras.backend.backend(), ("tensorflow", "jax"))


def need_tensorflow(what: str) -> None:
    """Refuses other backends for what takes gradients or graphs of TensorFlow's.

    Args:
        what: needs it, for the error.

    Raises:
        RuntimeError: another backend is set; says which is needed.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(f"{what} needs KERAS_BACKEND=tensorflow.")


def mount_drive(*places: str | os.PathLike | None) -> None:
    """In Colab, connects Google Drive if one of the files or folders is on it."""
    # A folder's name 2024 is a number to papermill; whoever uses it says so.
    paths = [Path(place) for place in places if isinstance(place, str | os.PathLike)]
    on_drive = any(path.is_relative_to(DRIVE) for path in paths)
    if on_drive and "google.colab" in sys.modules and not os.path.ismount(DRIVE):
        from google.colab import drive

        drive.mount(DRIVE)


def end_notebook(last_words: str) -> NoReturn:
    """Ends a notebook before its last cell: papermill takes this for success, and exits with 0.

    Args:
        last_words: what is printed.

    Raises:
        SystemExit: with 0, always.
    """
    warnings.filterwarnings("ignore", "To exit: use")  # IPython's comment on what follows
    print(f"{last_words}\nThe notebook ends here; the cells below are not run.", flush=True)
    raise SystemExit(0)


@contextlib.contextmanager
def _quiet_start() -> Iterator[None]:
    """Keeps what TensorFlow logs while it starts, before any log level counts, off the notebook."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    terminal = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


def has_gpu() -> bool:
    """Whether the Keras backend sees a GPU."""
    return "gpu" in _device_kinds()


def on_cpu() -> bool:
    """Whether the Keras backend sees nothing but the CPU."""
    return _device_kinds() == {"cpu"}


def on_tensorflow_cpu() -> bool:
    """Whether Keras runs on TensorFlow on the CPU."""
    import keras

    return keras.backend.backend() == "tensorflow" and on_cpu()


def instructions() -> list[str]:
    """Which of the CPU's instruction sets for neural networks there are, as Linux names them."""
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16")
    flags = _cpu_info("flags").split()
    return [name for name in known if name in flags]


def best_precision(fast_layers: bool = True) -> str:
    """The Keras dtype policy that trains fastest on this machine without losing accuracy.

    Args:
        fast_layers: whether a CPU is to use `utils.models.fast_layers`.

    Returns:
        "mixed_bfloat16" on a GPU that has it (compute capability 8, Ampere, or later), and with the
        fast layers on TensorFlow on a CPU that has it (AMX or AVX-512); otherwise "float32".
    """
    if has_gpu():
        bfloat16 = _gpu_capability() >= 8
    else:
        found = {"avx512_bf16", "amx_bf16"}.intersection(instructions())
        bfloat16 = bool(found) and on_tensorflow_cpu() and fast_layers
    return "mixed_bfloat16" if bfloat16 else "float32"


@contextlib.contextmanager
def deterministic_ops() -> Iterator[None]:
    """On a CPU, makes TensorFlow add up in the same order each time; JAX does so anyway."""
    if not on_tensorflow_cpu():
        yield
        return
    from tensorflow.python.framework import config as ops  # the way back is not in `tf.config`

    before = ops.is_op_determinism_enabled()
    ops.enable_op_determinism()
    try:
        yield
    finally:
        if not before:
            ops.disable_op_determinism()


@contextlib.contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Makes Keras layers that are built in the block of that dtype policy."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def describe(precision: str = "float32") -> dict[str, Any]:
    """The `env` part of a result.

    Args:
        precision: Keras dtype policy of the run.

    Returns:
        Dict of versions, backend, device name, the CPU's cores and instruction sets, and the commit
        of this checkout.
    """
    import keras

    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in ("tensorflow", "keras", "jax", "torch")},
        "backend": keras.backend.backend(),
        "device": _gpu_name() if has_gpu() else _cpu_name(),
        "cpu_count": os.cpu_count(),
        "instructions": instructions(),
        "precision": precision,
        "git_commit": _git_commit(),
    }


def usable_cores() -> int:
    """The CPU cores that this process may use, as far as the system says."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_rss_mb() -> float:
    """Highest resident memory of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux; `getrusage` would count the peak of the process that started this
        lines = [ln for ln in status.read_text().splitlines() if ln.startswith("VmHWM")]
        if lines:  # not in gVisor
            return int(lines[0].split()[1]) / 2**10
    import resource  # which Windows lacks

    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _version(package: str) -> str | None:
    """Installed version of a package, or of its build for CPUs alone; None without either."""
    for name in (package, f"{package}-cpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return None


def _module(requirement: str) -> str:
    """Guesses the name under which a requirement is imported from that of the package."""
    return re.findall(r"[\w-]+", requirement)[0].lower().replace("-", "_")


def _device_kinds() -> set[str]:
    from keras.distribution import list_devices

    return {name.split(":")[0].lower() for name in list_devices()}


def _gpu_name() -> str:
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return jax.devices()[0].device_kind
    return _gpu_details().get("device_name", "GPU")


def _gpu_capability() -> float:
    """CUDA's compute capability of the first GPU; 0 if it has none."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        with contextlib.suppress(ValueError):  # AMD's are called "gfx90a"
            return float(getattr(jax.devices()[0], "compute_capability", 0))
        return 0.0
    major, minor = _gpu_details().get("compute_capability", (0, 0))
    return major + minor / 10


def _gpu_details() -> dict[str, Any]:
    import tensorflow as tf

    return tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])


def _cpu_name() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _cpu_info(field: str) -> str:
    """A field of the first processor in Linux's list; "" where it has none."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    found = [line.split(":", 1)[1].strip() for line in lines if line.startswith(field)]
    return found[0] if found else ""


def _git_commit() -> str | None:
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
