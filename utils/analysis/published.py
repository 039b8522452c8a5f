"""Published numbers that the tables and figures compare with, with their sources."""

import pandas as pd

# The course report's table (E4040, Fall 2021); accuracies are fractions.
REPORT = pd.DataFrame(
    [
        ("simple", 667_584, 64, 0.236, 0.053),
        ("medium", 1_034_440, None, 0.301, 0.085),
        ("complex", 1_797_960, 139, 0.504, 0.188),
        ("resnet_report", 23_731_848, 13, 1.0, 0.202),
    ],
    columns=["preset", "parameters", "seconds_per_epoch", "train_top1", "val_top1"],
).set_index("preset")


# Published val top-1 on Tiny ImageNet of networks trained from nothing, as fractions; their MACs
# depend on stems that the sources do not all give.
LITERATURE = pd.DataFrame(
    [("ResNet-18", 11.3e6, 0.653), ("ResNet-50", 23.9e6, 0.693), ("fastai ResNet", 20e6, 0.593)],
    columns=["name", "parameters", "top1"],
)


# Published single-crop top-1 on ImageNet-1k at 224x224, as fractions: FishNet with the authors'
# code, the others in the documentation of keras.applications. Parameters in
# millions.
IMAGENET = pd.DataFrame(
    [
        ("FishNet", "99", 16.63, 0.7741),
        ("FishNet", "150", 24.96, 0.7814),
        ("FishNet", "201", 44.58, 0.7876),
        ("ResNet", "50", 25.6, 0.749),
        ("ResNet", "101", 44.7, 0.764),
        ("ResNet", "152", 60.4, 0.766),
        ("DenseNet", "121", 8.1, 0.750),
        ("DenseNet", "169", 14.3, 0.762),
        ("DenseNet", "201", 20.2, 0.773),
    ],
    columns=["family", "name", "parameters", "top1"],
)
