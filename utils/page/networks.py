"""The kept networks, and what they say of one image."""

from pathlib import Path
from threading import Lock
from typing import NamedTuple

import keras
import numpy as np

from utils.analysis.classify import load_classifier
from utils.analysis.gradients import grad_cam, layers_in
from utils.analysis.tables import kept
from utils.files import load_model
from utils.training.predictions import softmax
from utils.training.results import load_results

STAGES = {"Tail": "tail_3", "Body": "body_3", "Head": "head_1"}  # where each part decides
BOX_RUN = "localization-simple-seed0"


class Explanation(NamedTuple):
    """What networks say of an image."""

    top5: dict[str, float]  # probability by words, most probable first
    evidence: dict[str, np.ndarray]  # Grad-CAM (rows, columns) in [0, 1] for the first, by part
    box: np.ndarray | None  # xmin, ymin, xmax, ymax in [0, 1]; None without a network for it


class Networks:
    """The kept classifiers and the network for boxes, each loaded when it is first needed."""

    def __init__(
        self,
        results_dir: str | Path = "report/results",
        weights_dir: str | Path = "report/weights",
    ) -> None:
        self._folders = {"results_dir": results_dir, "weights_dir": weights_dir}
        self._box_weights = Path(weights_dir, f"{BOX_RUN}.keras")
        self._loaded: dict[str, tuple[keras.Model, list[str]]] = {}
        self._lock = Lock()
        with_weights = kept(load_results(results_dir), weights_dir)
        best_first = reversed(kept(with_weights, results_dir, ".npz"))
        self.titles = {result["run_id"]: _title(result) for result in best_first}
        if not self.titles:
            raise ValueError(
                f"{weights_dir} has no weights of a classifier whose result and predictions are in "
                f"{results_dir}; 03_train leaves all three."
            )

    def classifier(self, run_id: str) -> tuple[keras.Model, list[str]]:
        """A network and the words of its classes; see `load_classifier`."""
        with self._lock:
            if run_id not in self._loaded:
                self._loaded[run_id] = load_classifier(run_id, **self._folders)
            return self._loaded[run_id]

    def _box_of(self, image: np.ndarray) -> np.ndarray | None:
        if not self._box_weights.exists():
            return None
        with self._lock:
            if BOX_RUN not in self._loaded:
                self._loaded[BOX_RUN] = load_model(self._box_weights), []
        model, _ = self._loaded[BOX_RUN]
        if model.input_shape[1:] != image.shape:
            return None
        return model.predict_on_batch(image[None])[0, -4:].clip(0, 1)

    def explain(self, run_id: str, image: np.ndarray) -> Explanation:
        """Classifies an image and says where each part of the network finds evidence.

        Args:
            run_id: one of `titles`.
            image: uint8 (height, width, 3), of the network's input size.

        Returns:
            The `Explanation`.
        """
        model, words = self.classifier(run_id)
        logits = model.predict_on_batch(image[None])
        probabilities = softmax(logits)[0]
        best = np.argsort(-probabilities, kind="stable")[:5]
        stages = layers_in(model, STAGES.values())
        maps = grad_cam(model, image[None], best[:1].tolist(), stages)
        return Explanation(
            {words[i]: float(probabilities[i]) for i in best},
            {part: maps[stage][0] for part, stage in STAGES.items() if stage in maps},
            self._box_of(image),
        )


def _title(result: dict) -> str:
    """Of a network in the list to choose from."""
    return f"{result['run_id'].removesuffix('-seed0')}: {result['metrics']['top1']:.1%}"
