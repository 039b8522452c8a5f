"""FishNet as a backbone: the features of tail, body and head as pyramids."""

from utils.models.fishnet import STAGES

# In the order of the trunk; the body begins with what the tail ends in, the head with the body's
# end, so that each part has all four resolutions.
PARTS = {
    "tail": STAGES[:4],
    "body": STAGES[4:8],
    "head": STAGES[7:11],
}


def pyramid_outputs(model, part="head"):
    """The features of one part of a FishNet, by resolution.

    They are sums and concatenations, as the trunk hands them on: a network on top of them begins
    with batch normalization and an activation.

    Args:
        model: a model of `build_fishnet`, with any stem.
        part: "tail", "body" or "head".

    Returns:
        Dict of `keras.KerasTensor` by level, finest first. Level Pn has stride 2ⁿ, as KerasHub's
        feature-pyramid backbones name them: P2 ... P5 with the stem "imagenet", P1 ... P4 with
        "half" and P0 ... P3 with "full".

    Raises:
        ValueError: unknown part, with the valid ones, or a model that is no FishNet.

    Source: arXiv 1901.03495, section 3 and figure 2.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}. Received: {part!r}")
    names = {layer.name for layer in model.layers}
    missing = [stage for stage in PARTS[part] if stage not in names]
    if missing:
        raise ValueError(f"{model.name} is no FishNet: it has no layer {missing[0]}.")
    size = model.input.shape[1]
    levels = {}
    for stage in PARTS[part]:
        feature = model.get_layer(stage).output
        stride = size // feature.shape[1]
        levels[f"P{stride.bit_length() - 1}"] = feature
    return dict(sorted(levels.items()))
