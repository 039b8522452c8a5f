"""The library's entry: `from utils.models import build_model, load_weights`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from utils.models.build import build_model, load_weights

__all__ = ["build_model", "load_weights"]


def __getattr__(name: str) -> Any:
    """Loads Keras with the first use: whatever needs the presets alone does without."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from utils.models import build

    return getattr(build, name)
