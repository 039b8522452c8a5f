"""FishNet as a backbone of KerasHub, for its detectors and segmenters (`pip install keras-hub`)."""

import keras
import keras_hub

from utils.models.fishnet import pyramid_outputs


@keras.saving.register_keras_serializable("fishnet")
class FishNetBackbone(keras_hub.models.FeaturePyramidBackbone):
    """A FishNet whose `pyramid_outputs` KerasHub's tasks take.

    Args:
        classifier: a model of `build_fishnet`, trained or not; the backbone shares its weights.
        part: whose features are the pyramid, "tail", "body" or "head".

    Raises:
        ValueError: see `utils.models.fishnet.pyramid_outputs`.
    """

    def __init__(self, classifier, part="head", **kwargs):
        levels = pyramid_outputs(classifier, part)
        super().__init__(inputs=classifier.input, outputs=[*levels.values()][-1], **kwargs)
        self.pyramid_outputs = levels
        # A layer of its own would be saved twice.
        self._classifier_config, self.part = keras.saving.serialize_keras_object(classifier), part

    def get_config(self):
        """Config for serialization."""
        config = {"classifier": self._classifier_config, "part": self.part}
        return {**super().get_config(), **config}

    @classmethod
    def from_config(cls, config):
        """Builds the backbone anew."""
        classifier = keras.saving.deserialize_keras_object(config.pop("classifier"))
        return cls(classifier, **config)
