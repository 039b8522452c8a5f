import keras
import numpy as np
import pytest
import runs

from utils.models.build import build_model
from utils.models.fishnet import pyramid_outputs

pytestmark = pytest.mark.tracing

SIZES = {"imagenet": (2, 64), "half": (1, 32), "full": (0, 16)}  # first level, image size


@pytest.mark.parametrize("stem", SIZES)
@pytest.mark.parametrize(
    ("part", "channels"),
    [("tail", [16, 32, 64, 128]), ("body", [80, 128, 192, 128]), ("head", [80, 208, 400, 528])],
)
def test_levels_are_powers_of_two(stem, part, channels):
    first, size = SIZES[stem]
    model = build_model("simple", image_size=size, stem=stem)
    levels = pyramid_outputs(model, part)
    assert [*levels] == [f"P{first + i}" for i in range(4)]
    for i, (name, feature) in enumerate(levels.items()):
        width = size // 2 ** int(name[1:])
        assert feature.shape == (None, width, width, channels[i])


def test_the_tensors_are_those_of_the_stages():
    model = build_model("simple")
    levels = pyramid_outputs(model, "body")
    stages = ("body_3", "body_2", "body_1", "bridge")
    for feature, stage in zip(levels.values(), stages, strict=True):
        assert feature is model.get_layer(stage).output


def test_errors_name_the_rule():
    with pytest.raises(ValueError, match="part must be one of tail, body, head. Received: 'fin'"):
        pyramid_outputs(build_model("simple"), "fin")
    with pytest.raises(ValueError, match="resnet50 is not a FishNet: it has no layer body_3"):
        pyramid_outputs(build_model("resnet50"))


@pytest.fixture
def backbone():
    pytest.importorskip("keras_hub")
    from utils.models.keras_hub import FishNetBackbone

    return FishNetBackbone(build_model(runs.WHOLE, normalization=([127.0] * 3, [70.0] * 3)))


def images(count=2):
    return np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3)).astype("float32")


def test_backbone_for_keras_hub(backbone, tmp_path):
    import keras_hub

    assert isinstance(backbone, keras_hub.models.FeaturePyramidBackbone)
    backbone.save(tmp_path / "backbone.keras")
    again = keras.models.load_model(tmp_path / "backbone.keras")
    assert [*again.pyramid_outputs] == ["P2", "P3", "P4", "P5"]
    np.testing.assert_array_equal(again(images()), backbone(images()))


def test_keras_hub_s_segmenter_trains_on_it(backbone):
    import keras_hub

    deeplab = keras_hub.models.DeepLabV3Backbone(
        image_encoder=backbone,
        low_level_feature_key="P2",
        spatial_pyramid_pooling_key="P5",
        upsampling_size=8,
        dilation_rates=[1, 2],
        image_shape=(64, 64, 3),
    )
    segmenter = keras_hub.models.DeepLabV3ImageSegmenter(deeplab, num_classes=3)
    logits = segmenter(images())
    assert logits.shape == (2, 64, 64, 3)
    kernel = backbone.get_layer("tail_1_block1_conv2").kernel
    before = np.array(kernel)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    segmenter.compile("adam", loss, jit_compile=False)
    labels = np.zeros((2, 64, 64, 1))
    losses = [segmenter.train_on_batch(images(), labels) for _ in range(3)]
    assert losses[-1] < losses[0]
    assert np.abs(np.array(kernel) - before).max() > 0


def test_keras_hub_s_detector_trains_on_it(backbone):
    import keras_hub

    pyramid = keras_hub.models.RetinaNetBackbone(
        backbone, min_level=3, max_level=5, use_p5=False, image_shape=(64, 64, 3)
    )
    detector = keras_hub.models.RetinaNetObjectDetector(
        pyramid, num_classes=4, bounding_box_format="xyxy"
    )
    kernel = backbone.get_layer("tail_1_block1_conv2").kernel
    before = np.array(kernel)
    detector.compile(
        "sgd",
        box_loss=keras.losses.Huber(reduction="sum"),
        classification_loss=keras.losses.BinaryFocalCrossentropy(from_logits=True, reduction="sum"),
        jit_compile=False,
    )
    boxes = np.array([[[8, 8, 40, 40]], [[0, 16, 32, 63]]], "float32")
    labels = {"boxes": boxes, "labels": np.array([[1], [3]])}
    history = detector.fit(images(), labels, batch_size=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert np.abs(np.array(kernel) - before).max() > 0
