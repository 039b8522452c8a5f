"""A trained network on the Hugging Face Hub: `python -m utils.export.hub RUN USER/NAME`."""

import argparse
import json
import re
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from utils.analysis.machine_readable import card_metadata
from utils.analysis.tables import kept, network_of
from utils.commands import one_line_errors
from utils.environment import REPOSITORY
from utils.models.build import WEIGHTS_DIR
from utils.training.predictions import load_predictions
from utils.training.results import load_results

KEPT_SECTIONS = ("Limits", "Data and license")  # of the model card of all networks


def write_repository(
    folder: Path,
    run_id: str,
    repo_id: str,
) -> None:
    """Writes what a repository of the Hub holds of one network.

    Args:
        folder: to write to, made if there is none: the contents of the `.keras` file, as Keras
            loads them from there; README.md, the model card; result.json; and classes.json, the
            words of each class.
        run_id: name of a classification run whose weights are kept.
        repo_id: of the repository, "user/name".

    Raises:
        ValueError: there is no such run (lists those that there are), or the repository's name is
            not one.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise ValueError(f"repository must be USER/NAME. Received: {repo_id!r}")
    results_dir = WEIGHTS_DIR.parent / "results"
    valid = {r["run_id"]: r for r in kept(load_results(results_dir), WEIGHTS_DIR)}
    if run_id not in valid:
        raise ValueError(
            "run must be a classification run with kept weights: "
            f"{', '.join(sorted(valid)) or 'none'}. Received: {run_id!r}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(WEIGHTS_DIR / f"{run_id}.keras") as archive:
        archive.extractall(folder)
    words = load_predictions(results_dir / f"{run_id}.npz")["words"]
    general = (WEIGHTS_DIR / "README.md").read_text("utf-8")
    for name, text in {
        "README.md": model_card(valid[run_id], repo_id, general),
        "result.json": json.dumps(valid[run_id], indent=1),
        "classes.json": json.dumps([*map(str, words)], indent=1),
    }.items():
        (folder / name).write_text(text, "utf-8")


def model_card(result: dict[str, Any], repo_id: str, general: str) -> str:
    """The model card of one network.

    Args:
        result: its result.
        repo_id: of its repository, "user/name".
        general: the model card of all networks, of which it keeps the limits and the license.

    Returns:
        Markdown that begins with the metadata that the Hub reads.
    """
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", general, re.DOTALL | re.MULTILINE))
    metrics, config = result["metrics"], result["config"]
    start = config.get("initial_weights") or "scratch"
    return f"""{card_metadata([result])}
# {result["run_id"]}

The network "{network_of(result)}" of [a reproduction](https://github.com/{REPOSITORY}) of FishNet
(Sun et al., NeurIPS 2018) on Tiny ImageNet-200, in Keras 3:
{result["model"]["parameters"]:,} parameters, trained from {start} for {config["epochs"]} epochs.
Top-1 {metrics["top1"]:.1%} and top-5 {metrics["top5"]:.1%} on the 10,000 validation images.

```python
import json

import keras
from huggingface_hub import hf_hub_download

model = keras.saving.load_model("hf://{repo_id}")
classes = json.load(open(hf_hub_download("{repo_id}", "classes.json")))
logits = model.predict(images)  # (n, 64, 64, 3), RGB, 0 to 255; normalization is the first layer
print([classes[i] for i in logits.argmax(axis=1)])
```

This is one run after its last epoch; the binomial standard error of its top-1 is at most 0.5
percentage points. `result.json` has the settings and the history of the training and the command
that repeats it.

""" + "\n\n".join(f"## {name}\n{sections[name].rstrip()}" for name in KEPT_SECTIONS)


def upload(folder: Path, repo_id: str, *, private: bool = False, api: Any = None) -> str:
    """Uploads a folder to the Hub, to a repository that is made if there is none.

    Args:
        folder: as `write_repository` wrote it.
        repo_id: "user/name".
        private: whether a new repository is private.
        api: a `huggingface_hub.HfApi`; None: one with the token of `hf auth login`.

    Returns:
        The address of the commit.
    """
    if api is None:
        from huggingface_hub import HfApi

        api = HfApi(library_name="keras")
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    commit = api.upload_folder(
        repo_id=repo_id, folder_path=str(folder), commit_message="Upload a trained FishNet"
    )
    return str(commit.commit_url)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.export.hub",
        description="Uploads a trained network to the Hugging Face Hub, after `hf auth login`.",
    )
    parser.add_argument("run", help="a classification run whose weights are kept")
    parser.add_argument("repository", help="USER/NAME; made if there is none")
    parser.add_argument("--private", action="store_true", help="make it a private one")
    parser.add_argument("--dry-run", action="store_true", help="write it to runs/hub only")
    options = parser.parse_args()
    with one_line_errors(parser):
        if options.dry_run:
            folder = Path("runs/hub", options.run)
            write_repository(folder, options.run, options.repository)
            print(f"{folder} written; nothing is uploaded")
            return
        with tempfile.TemporaryDirectory() as name:
            write_repository(Path(name), options.run, options.repository)
            print(upload(Path(name), options.repository, private=options.private))


if __name__ == "__main__":
    main()
