"""Published numbers that tables and figures compare with, each beside its source."""

import pandas as pd

# "FishNet Implementation for Image Classification", project report of the course E4040, Fall 2021,
# its table of results on Tiny ImageNet after 30 epochs; accuracies are fractions.
COURSE_EPOCHS = 30
COURSE_REPORT = pd.DataFrame(
    [
        ("simple", 667_584, 64, 0.236, 0.053),
        ("medium", 1_034_440, None, 0.301, 0.085),
        ("complex", 1_797_960, 139, 0.504, 0.188),
        ("resnet_report", 23_731_848, 13, 1.0, 0.202),
    ],
    columns=["preset", "parameters", "seconds_per_epoch", "train_top1", "val_top1"],
).set_index("preset")

_GIUNG2 = "github.com/cs-giung/giung2-jax, projects/Baseline-TinyImageNet, 100 epochs, 8 TPUv3"
_FASTAI = "github.com/fastai/course22p2, nbs/24_imgnet_tiny.ipynb, 25 epochs"
_CONVMIXER = (
    "github.com/peterniederl/ConvMixer-TinyImageNet, results/base_conv_mixer.txt, 100 epochs"
)
# Published validation top-1 on Tiny ImageNet of networks trained from scratch on it, as fractions.
# Their multiply-accumulates depend on stems that the sources do not all state.
LITERATURE = pd.DataFrame(
    [
        ("ResNet-18", 11.3e6, 0.655, 100, _GIUNG2),
        ("ResNet-50", 23.9e6, 0.694, 100, _GIUNG2),
        ("fastai ResNet", 21e6, 0.618, 25, _FASTAI),
        ("ConvMixer variant", 2.64e6, 0.630, 100, _CONVMIXER),
    ],
    columns=["name", "parameters", "top1", "epochs", "source"],
)

_AUTHORS = "README and code of github.com/kevin-ssy/FishNet"
_KERAS = "keras.io/api/applications, table of models"
# Published single-crop top-1 and top-5 on ImageNet-1k at 224x224, as fractions; parameters in
# millions, multiply-accumulates in billions (of the others: see `ARCHITECTURES`; of ResNet-152,
# He et al. (2016), table 1).
IMAGENET = pd.DataFrame(
    [
        ("FishNet", "99", 16.63, 4.31, 0.7741, 0.9359, _AUTHORS),
        ("FishNet", "150", 24.96, 6.45, 0.7814, 0.9395, _AUTHORS),
        ("FishNet", "201", 44.58, 10.58, 0.7876, 0.9439, _AUTHORS),
        ("ResNet", "50", 25.6, 3.8, 0.749, 0.921, _KERAS),
        ("ResNet", "101", 44.7, 7.6, 0.764, 0.928, _KERAS),
        ("ResNet", "152", 60.4, 11.3, 0.766, 0.931, _KERAS),
        ("DenseNet", "121", 8.1, 2.83, 0.750, 0.923, _KERAS),
        ("DenseNet", "169", 14.3, 3.36, 0.762, 0.932, _KERAS),
        ("DenseNet", "201", 20.2, 4.29, 0.773, 0.936, _KERAS),
    ],
    columns=["family", "name", "parameters", "macs", "top1", "top5", "source"],
)
# FishNet-150 for 200 epochs with a cosine schedule and label smoothing, as above.
FISHNET_150_LONG = (24.96, 6.45, 0.7935, 0.9475)

_TORCHVISION = "pytorch.org/vision, models"
# Parameters, and multiply-accumulates per image of 224x224 pixels with ImageNet's 1,000 classes.
ARCHITECTURES = pd.DataFrame(
    [
        ("fishnet99", 16_628_904, 4.31e9, _AUTHORS),
        ("fishnet150", 24_959_400, 6.45e9, _AUTHORS),
        ("fishnet201", 44_584_552, 10.58e9, _AUTHORS),
        ("fishnext150", 26.2e6, None, "Sun et al. (2018), table 1"),
        ("resnet50", 25.6e6, 3.8e9, "He et al. (2016)"),
        ("resnet101", 44.7e6, 7.6e9, "He et al. (2016)"),
        ("resnext50", 25.0e6, 4.2e9, "Xie et al. (2017), table 1"),
        ("densenet121", 8.0e6, 2.83e9, _TORCHVISION),
        ("densenet169", 14.1e6, 3.36e9, _TORCHVISION),
        ("densenet201", 20.0e6, 4.29e9, _TORCHVISION),
    ],
    columns=["preset", "parameters", "macs", "source"],
).set_index("preset")

# FishNet-150 on ImageNet with four ways to down-sample: Sun et al. (2018), table 2; parameters in
# millions, top-1 error in percent.
PAPER_DOWN_SAMPLING = pd.DataFrame(
    [
        ("max_pool", 26.4, 21.93),
        ("max_pool_3x3", 26.4, 22.51),
        ("average_pool", 26.4, 22.86),
        ("convolution", 30.2, 22.75),
    ],
    columns=["down_sampling", "parameters", "error"],
).set_index("down_sampling")

# Grouped convolutions: Sun et al. (2018), table 1, likewise.
PAPER_GROUPED = pd.DataFrame(
    [
        ("ResNeXt-50 (32×4d)", 25.0, 22.2),
        ("FishNeXt-150 (4d)", 26.2, 21.5),
    ],
    columns=["network", "parameters", "error"],
)
