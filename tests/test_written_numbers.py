"""The numbers that README and notebooks state in their prose are those of the results."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from utils.analysis.predictions import calibration, per_class_accuracy
from utils.analysis.published import COURSE_REPORT
from utils.analysis.report import spread_between_seeds
from utils.analysis.tables import kept, summary
from utils.experiments.ablations import ablation_table, recipe_table
from utils.experiments.layers_in_call.symptoms import beside, symptoms
from utils.experiments.search import study_table
from utils.figures.charts import FEWEST
from utils.models import load_weights
from utils.models.presets import TITLES
from utils.training.predictions import load_predictions
from utils.training.results import load_results, read_result

RESULTS = Path("report/results")
COUNTS = {1: "one run", 2: "two seeds", 3: "three seeds"}


def prose(path):
    text = Path(path).read_text()
    if path.endswith(".ipynb"):
        cells = [c for c in json.loads(text)["cells"] if c["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    return " ".join(text.split())


def rows():
    """Row of the results tables by network, recipe and epochs."""
    table = summary(load_results(RESULTS))
    return {(r["network"], r["recipe"], r["epochs"]): r for r in table.to_dict("records")}


def accuracies():
    found = rows()
    longest = next(row for row in found.values() if row["epochs"] == 100)
    tuned = {n: found[f"{n}, SiLU", "tuned", 30] for n in ("simple", "medium", "complex")}
    short = {r: found["simple", r, 8] for r in ("course", "tuned-v1", "tuned")}
    gain = [
        short[b]["validation top-1"] - short[a]["validation top-1"]
        for a, b in (("course", "tuned-v1"), ("tuned-v1", "tuned"))
    ]
    error = math.hypot(short["tuned-v1"]["error"], short["tuned"]["error"])
    gaps = {
        name: f"{100 * (row['training top-1'] - row['validation top-1']):.0f}"
        for name, row in {"short": short["tuned"], **tuned, "longest": longest}.items()
    }
    reached = {name: f"{row['validation top-1']:.1%}" for name, row in tuned.items()}
    assert all(row["deviation"] < row["error"] for row in found.values() if row["n"] > 1)
    (older, newer) = (found["complex", "course", epochs] for epochs in (30, 4))
    assert [row["avx2"] for row in (older, newer)] == [True, False]
    yield (
        "README.md",
        f"`complex` with `course` takes {older['s / epoch']:.0f} seconds, on the other "
        f"{newer['s / epoch']:.0f} (one measurement each).",
    )
    apart = {name: 100 * tuned[name]["deviation"] for name in ("simple", "complex")}
    yield (
        "README.md",
        f"({apart['simple']:.2f} points of `simple`, {apart['complex']:.2f} of `complex`)",
    )
    finer = found["complex, stem of stride 2, SiLU, progressive resizing", "tuned", 30]
    gained, uncertainty = difference_in_points(finer, tuned["complex"])
    resized = f"progressive resizing reaches {finer['validation top-1']:.1%} in"
    yield "README.md", f"{resized} as many epochs, also on two CPU cores ({COUNTS[finer['n']]})"
    yield (
        "notebooks/04_analysis.ipynb",
        f"{resized} 30 epochs ({COUNTS[finer['n']]}), {gained:.1f} ± {uncertainty:.1f} points more "
        "than with the stem of stride 4",
    )
    more, uncertainty = difference_in_points(longest, finer)
    how = "" if more > 2 * uncertainty else "not measurably "
    top1 = longest["validation top-1"]
    yield (
        "README.md",
        f"is {how}better: it reaches {top1:.1%} ({COUNTS[longest['n']]} of 100 epochs)",
    )
    three = "{}, {} and {}"
    theirs = "{:.1%}, {:.1%} and {:.1%}".format(*COURSE_REPORT["val_top1"].iloc[:3])
    course = [found[name, "course", 30] for name in tuned]
    by_course = three.format(*(f"{row['validation top-1']:.1%}" for row in course))
    yield (
        "README.md",
        f"reach {three.format(*reached.values())}, where it has {theirs}; with its own recipe, as "
        f"far as it is described, and ReLU, they reach {by_course} (one run each).",
    )
    yield (
        "notebooks/04_analysis.ipynb",
        f"another {100 * gain[0]:.0f} points in the same number of epochs (eight), `tuned` "
        f"{100 * gain[1]:.1f} ± {100 * error:.1f} more",
    )
    yield (
        "notebooks/04_analysis.ipynb",
        f"`simple` reaches {reached['simple']} ({COUNTS[tuned['simple']['n']]}), `medium` "
        f"{reached['medium']} and `complex` {reached['complex']} "
        f"({COUNTS[tuned['complex']['n']]}).",
    )
    assert {row["n"] for row in course} == {1}
    for small, large in itertools.combinations(course, 2):
        gained, uncertainty = difference_in_points(large, small)
        assert gained < uncertainty
    yield (
        "notebooks/04_analysis.ipynb",
        f"`simple`, `medium` and `complex` reach {by_course} (one run each), where the course "
        f"report's have {theirs}: here no larger network is measurably better.",
    )
    yield (
        "notebooks/04_analysis.ipynb",
        f"stem of stride 4, and {top1:.1%} in {longest['epochs']} on a GPU",
    )
    yield (
        "notebooks/04_analysis.ipynb",
        f"above the validation accuracy: {gaps['short']} points after 8 epochs, "
        f"{gaps['simple']} (`simple`), {gaps['medium']} (`medium`) and {gaps['complex']} "
        f"(`complex`) after 30, and {gaps['longest']} after 100.",
    )


def difference_in_points(one, other):
    """Of two rows' validation top-1, with its standard error."""
    difference = one["validation top-1"] - other["validation top-1"]
    return 100 * difference, 100 * math.hypot(one["error"], other["error"])


def beside_complex(preset):
    """Rows of a plain residual network and of `complex`; the difference and its error in points."""
    found = rows()
    plain, fishnet = (found[f"{name}, SiLU", "tuned", 30] for name in (TITLES[preset], "complex"))
    return plain, fishnet, *difference_in_points(plain, fishnet)


def residual_networks():
    plain, fishnet, difference, error = beside_complex("residual_parameters")
    apart = f"{difference:.1f} ± {error:.1f} points"
    yield (
        "README.md",
        f"{plain['MACs'] / fishnet['MACs']:.1f} times its multiply-accumulates is {apart} ahead of "
        f"it (one run, {COUNTS[fishnet['n']]} of `complex`)",
    )
    yield (
        "notebooks/04_analysis.ipynb",
        f"{plain['MACs'] / fishnet['MACs']:.1f} times its multiply-accumulates, reaches "
        f"{plain['validation top-1']:.1%} after 30 epochs with `tuned` and SiLU: {apart} ahead of "
        f"`complex` (one run, {COUNTS[fishnet['n']]} of `complex`).",
    )
    plain, fishnet, difference, error = beside_complex("residual_macs")
    yield (
        "README.md",
        f"{plain['parameters'] / fishnet['parameters']:.0%} of its parameters, is not measurably "
        f"different ({difference:+.1f} ± {error:.1f}, likewise)",
    )
    yield (
        "notebooks/04_analysis.ipynb",
        f"{plain['parameters'] / fishnet['parameters']:.0%} of its parameters, reaches "
        f"{plain['validation top-1']:.1%}: not measurably different from `complex` "
        f"({difference:+.1f} ± {error:.1f} points, likewise).",
    )


def course_report():
    top1, simple = COURSE_REPORT["val_top1"], COURSE_REPORT.loc["simple"]
    table = ablation_table(RESULTS).set_index("run")
    recipe, long = table.loc["why-course-recipe-seed0"], rows()["simple", "course", 30]
    yield "README.md", f"validation top-1 of {top1.min():.1%} to {top1.max():.1%}"
    yield (
        "notebooks/04_analysis.ipynb",
        f"({recipe['train_top1']:.1%}, and {recipe['top1']:.1%} on the hold-out: a ratio of "
        f"{recipe['train_top1'] / recipe['top1']:.1f}, and of "
        f"{long['training top-1'] / long['validation top-1']:.1f} after 30 epochs, "
        "where the course report's is "
        f"{simple['train_top1'] / simple['val_top1']:.1f})",
    )
    variants = symptoms(RESULTS).set_index(["network", "which", "manner"])
    ours = variants.loc["simple", "transfer", "list"]
    sound = read_result(RESULTS / "simple-course-30ep-seed0.json")["history"]
    theirs = beside(simple["train_top1"], simple["val_top1"], sound)
    yield (
        "README.md",
        f"training top-1 is {ours['times_train']:.0%} of the fault-free network's after "
        f"{ours['epochs']:.0f} epochs ({_share(8):.0%} after 8; {_share(9):.0%} after 9, when its "
        "own learning rate has fallen and the fault-free network's has not; "
        f"{_share(11):.0%} after 11), hold-out top-1 {ours['times_val']:.0%} of the "
        "fault-free network's at equal training accuracy",
    )
    yield (
        "notebooks/04_analysis.ipynb",
        f"Their share of the fault-free training accuracy is {_share(8):.0%} after 8 epochs, "
        f"{_share(9):.0%} after 9 and {ours['times_train']:.0%} after {ours['epochs']:.0f}.",
    )
    yield (
        "README.md",
        f"The course report's simple FishNet has {theirs['times_train']:.0%} (of the running mean) "
        f"and {theirs['times_val']:.0%} of ours.",
    )


def _share(epoch):
    """Training top-1 with re-created transfer blocks over that without the fault, of two seeds."""
    faulty, sound = (
        sum(
            read_result(RESULTS / f"layers-in-call-{which}-twin-seed{seed}.json")["history"][
                "top1"
            ][epoch - 1]
            for seed in (0, 1)
        )
        for which in ("transfer", "none")
    )
    return faulty / sound


def searches():
    trials = recipe_table(RESULTS).set_index("changed")["difference"]
    muon = {name: gain for name, gain in trials.items() if name.startswith("Muon")}
    silu = [gain for name, gain in muon.items() if "SiLU" in name]
    study = study_table("activation", results_dir=str(RESULTS)).set_index("changed")
    everything = [read_result(path) for path in RESULTS.glob("*.json")]
    spread = spread_between_seeds([r for r in everything if r["status"] == "complete"])
    yield (
        "notebooks/06_search.ipynb",
        f"SiLU gains {study.loc['silu', 'difference']:.1f} points (seeds differed by up to "
        f"{100 * spread['largest']:.1f}, after three epochs), GELU none;",
    )
    yield (
        "notebooks/06_search.ipynb",
        f"{muon['Muon, rate 0.05, weight decay 0.01']:.1f} points ahead at a higher rate, and "
        f"{muon['Muon, rate 0.02, weight decay 0.125']:.1f} ahead with a decay of 0.125",
    )
    yield (
        "notebooks/06_search.ipynb",
        f"all settings of Muon are {min(silu):.1f} to {max(silu):.1f} points ahead, where SiLU "
        f"with SGD is {trials['SiLU in place of ReLU']:.1f}",
    )
    sizes = study_table("size", results_dir=str(RESULTS)).set_index(["width", "blocks"])
    top1 = 100 * sizes["top1"]
    # A quarter with one block is the default, whose other seeds the difference includes.
    wider = [sizes.loc[(0.375, 1), "difference"]]
    wider += [top1[0.375, blocks] - top1[0.25, blocks] for blocks in (2, 4)]
    yield (
        "notebooks/06_search.ipynb",
        f"{wider[0]:.1f} points with one block, within the {100 * spread['largest']:.1f}, but "
        f"{wider[1]:.1f} with two and {wider[2]:.1f} with four",
    )
    stem = trials["stem of stride 2, images of 32, 48, 64 pixels"]
    yield "notebooks/06_search.ipynb", f"then 64 pixels gains {stem:.1f} points with SGD"


def region_and_pixel():
    def gain(name, seed):
        iou = read_result(RESULTS / f"segmentation-{name}-seed{seed}.json")["history"]["val_iou"]
        return abs(100 * (iou[-1] - iou[-2]))

    said = [f"{gain(name, 0):.1f} and {gain(name, 1):.1f}" for name in ("simple", "simple-tail")]
    yield (
        "notebooks/07_region_and_pixel.ipynb",
        f"({said[0]} points of IoU in the last one, its tail {said[1]})",
    )


def best_network():
    """Grad-CAM's positions and the worst classes of the most accurate network with kept weights."""
    chosen = kept(load_results(RESULTS), "report/weights")[-1]
    model = load_weights(chosen["run_id"])
    tail, body = [
        "×".join(map(str, model.get_layer(name).output.shape[1:3])) for name in ("tail_3", "body_3")
    ]
    yield "README.md", f"The tail ends at {tail} positions, the body returns to {body}."
    yield "notebooks/04_analysis.ipynb", f"last map has {tail} positions, the body's {body} again"
    worst = per_class_accuracy(load_predictions(RESULTS / f"{chosen['run_id']}.npz")).index[:4]
    names = f"{', '.join(worst[:3])} and {worst[3]}"
    yield "notebooks/04_analysis.ipynb", f"The best network is worst at {names};"
    yield "utils/site/page.html", f"last map has {tail} positions; the body's has {body} again"


def calibration_bins():
    """The standard error of a bin of the calibration figure."""
    runs = [run for run in load_results(RESULTS) if len(run["history"]["loss"]) >= 30]
    tables = [
        calibration(load_predictions(RESULTS / f"{run['run_id']}.npz"))
        for run in kept(runs, RESULTS, ".npz")
    ]
    bins = pd.concat([table[table["images"] >= FEWEST] for table in tables])
    error = np.sqrt(bins["accuracy"] * (1 - bins["accuracy"]) / bins["images"]).median()
    said = f"about {100 * error:.0f}"
    yield "notebooks/04_analysis.ipynb", f"the standard error of one is {said} points"
    yield "report/parts/closer.typ", f"in 15 bins, whose standard error is {said}~points"


@pytest.mark.parametrize(
    "source",
    [
        accuracies,
        residual_networks,
        course_report,
        searches,
        region_and_pixel,
        best_network,
        calibration_bins,
    ],
)
def test_prose_states_the_numbers_of_the_results(source):
    missing = [(path, said) for path, said in source() if said not in prose(path)]
    assert not missing
