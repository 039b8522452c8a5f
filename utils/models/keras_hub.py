"""FishNet as a backbone of KerasHub, for its detectors and segmenters (`pip install keras-hub`)."""

from typing import Any, Self

import keras
import keras_hub

from utils.models.fishnet import pyramid_outputs


@keras.saving.register_keras_serializable("fishnet")
class FishNetBackbone(keras_hub.models.FeaturePyramidBackbone):
    """A FishNet as a feature pyramid for the tasks of KerasHub.

    Args:
        classifier: a model of `build_fishnet`, trained or not; the backbone shares its weights.
        part: the part that gives the pyramid, "tail", "body" or "head".

    Raises:
        ValueError: see `utils.models.fishnet.pyramid_outputs`.
    """

    def __init__(self, classifier: keras.Model, part: str = "head", **kwargs: Any) -> None:
        levels = pyramid_outputs(classifier, part)
        super().__init__(inputs=classifier.input, outputs=[*levels.values()][-1], **kwargs)
        self.pyramid_outputs = levels
        # As an attribute, the classifier would be saved twice: keep its config only.
        self._classifier_config, self.part = keras.saving.serialize_keras_object(classifier), part

    def get_config(self) -> dict[str, Any]:
        """Returns the config for serialization."""
        config = {"classifier": self._classifier_config, "part": self.part}
        return {**super().get_config(), **config}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Builds the backbone from its config."""
        classifier = keras.saving.deserialize_keras_object(config.pop("classifier"))
        return cls(classifier, **config)
