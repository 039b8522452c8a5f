"""A network as small as can be for tests that train, and what a run of it has learned."""

import keras

from utils.models.presets import FishNetConfig

PLANES = (8, 16, 32, 64, 64, 64, 48, 32, 40, 104, 200)
# Tracing is what takes the time here: a whole FishNet only where its blocks matter.
SMALL = FishNetConfig(PLANES, (1,) * 10, (0,) * 6, stages="tail")
WHOLE = FishNetConfig(PLANES, (1,) * 10, (0,) * 6)


def damage(path):
    """Changes 256 bytes in the middle: a single one may be a date in a zip, which nobody reads."""
    content = path.read_bytes()
    middle = len(content) // 2
    changed = bytes(byte ^ 1 for byte in content[middle : middle + 256])
    path.write_bytes(content[:middle] + changed + content[middle + 256 :])


def weights_of(config, name):
    return keras.models.load_model(f"{config.run_dir}/{name}").get_weights()


def learned(result):
    """A result without what may differ from run to run: times, memory, names."""
    measured = {"seconds", "images_per_second", "peak_rss_mb"}
    history = {k: v for k, v in result["history"].items() if k not in measured}
    return history, result["metrics"], result["metrics_train"], result.get("metrics_ema")
