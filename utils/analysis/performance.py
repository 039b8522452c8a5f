"""Tables of what `utils.experiments.benchmark` measures."""

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from utils.experiments.side_by_side import SETTINGS


def speed_table(rows: Iterable[dict[str, Any]], peak_gflops: float) -> pd.DataFrame:
    """Speed by network and setting.

    Args:
        rows: of the task "speed", as `utils.experiments.benchmark.measure` returns them; the first
            row of each network is the one that the others are compared with.
        peak_gflops: of a large float32 matrix product on the same machine.

    Returns:
        `pandas.DataFrame`, the rows and: network, see `network_name`; setting; ratio of
        images_per_second to the network's first row; share_of_peak, the fraction of peak_gflops
        that is reached; error, NaN where none occurred.
    """
    table = pd.DataFrame(rows)
    for name in ("images_per_second", "gflops", "error"):
        if name not in table:  # of any row
            table[name] = np.nan
    table["network"] = [network_name(preset) for preset in table["preset"]]
    layers = table["fast_layers"].map({True: "fast layers", False: "Keras' layers"})
    xla = table["xla"].map({True: ", XLA", False: ""})
    table["setting"] = table["backend"] + ", " + table["precision"] + xla + ", " + layers
    first = table.drop_duplicates("network").set_index("network")["images_per_second"]
    table["ratio"] = table["images_per_second"] / table["network"].map(first)
    table["share_of_peak"] = table["gflops"] / peak_gflops
    return table


def side_by_side_table(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Training speed beside the authors' code.

    Args:
        rows: as `utils.experiments.side_by_side.compare` returns them.

    Returns:
        `pandas.DataFrame`: network; setting; code ("ours" or "theirs"); images_per_cpu_second, of
        the fastest window, as other processes can only slow one down; ratio, lowest and highest:
        median and range over windows of the ratio to ours in float32 beside it; of_their_best: the
        median ratio divided by the largest of theirs for that network; error, why a row has no
        numbers.
    """
    shown = []
    for row in rows:
        ratios = sorted(row.get("ratios", [])) or [float("nan")]
        shown.append(
            {
                "network": network_name(row["network"]),
                "setting": row["setting"],
                "code": SETTINGS[row["setting"]][0],
                "images_per_cpu_second": max(
                    row.get("images_per_cpu_second", []), default=float("nan")
                ),
                "ratio": statistics.median(ratios),
                "lowest": ratios[0],
                "highest": ratios[-1],
                "error": row["error"],
            }
        )
    table = pd.DataFrame(shown)
    theirs = table[table["code"] == "theirs"].groupby("network")["ratio"].max()
    table.insert(7, "of_their_best", table["ratio"] / table["network"].map(theirs))
    return table


def network_name(preset: str | list) -> str:
    """A preset's own name, or "widths from 20" for a list of widths and blocks."""
    return preset if isinstance(preset, str) else f"widths from {preset[0][0]}"


def profile_table(profiles: Mapping[str, dict[str, Any]]) -> pd.DataFrame:
    """Where the time of a training step goes.

    Args:
        profiles: results of the task "operations", by title.

    Returns:
        `pandas.DataFrame` of milliseconds per step, a row per kind of operation, the largest first,
        and a column per title.
    """
    spent = {title: profile["ms_by_operation"] for title, profile in profiles.items()}
    table = pd.DataFrame(spent).fillna(0).rename_axis("operation")
    return table.loc[table.max(axis=1).sort_values(ascending=False).index]


def last_epoch_table(histories: Mapping[str, dict[str, list[float]]]) -> pd.DataFrame:
    """Whether an epoch costs as much at the end of a run as near its start.

    Args:
        histories: of results, by title. The first epoch is left out: it traces the graph and
            decodes the images.

    Returns:
        `pandas.DataFrame`, a row per title: epochs; seconds of the second and of the last epoch,
        and the ratios last / second of seconds and of peak memory.
    """
    rows = {}
    for title, history in histories.items():
        seconds, memory = history["seconds"], history["peak_rss_mb"]
        rows[title] = {
            "epochs": len(seconds),
            "second epoch, s": seconds[1],
            "last epoch, s": seconds[-1],
            "seconds, last / second": seconds[-1] / seconds[1],
            "memory, last / second": memory[-1] / memory[1],
        }
    return pd.DataFrame.from_dict(rows, orient="index")
