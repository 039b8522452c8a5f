"""A network as small as can be for tests that train, and what a run of it has learned."""

import keras

from utils.models.presets import FishNetConfig

PLANES = (8, 16, 32, 64, 64, 64, 48, 32, 40, 104, 200)
# Tracing is what takes the time here: a whole FishNet only where its blocks matter.
SMALL = FishNetConfig(PLANES, (1,) * 10, (0,) * 6, stages="tail")
WHOLE = FishNetConfig(PLANES, (1,) * 10, (0,) * 6)


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def weights_of(config, name):
    return keras.models.load_model(f"{config.run_dir}/{name}").get_weights()


def learned(result):
    """A result without what may differ from run to run: times, memory, names."""
    measured = {"seconds", "images_per_second", "peak_rss_mb"}
    history = {k: v for k, v in result["history"].items() if k not in measured}
    return history, result["metrics"], result["metrics_train"], result.get("metrics_ema")
