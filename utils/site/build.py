"""Fills the results into the static page."""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def render(contents: dict[str, Any]) -> str:
    """The page as one HTML text; beside it belongs `plotly-cartesian.min.js`.

    Args:
        contents: as `utils.site.contents.site_contents` returns them.

    Returns:
        The text of `index.html`: style, script and data are within it.
    """
    data = json.dumps(contents, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    parts = {
        "/* page.css */": (HERE / "page.css").read_text(encoding="utf-8"),
        "/* page.js */": (HERE / "page.js").read_text(encoding="utf-8"),
        "/* results */": data.replace("</", "<\\/"),
    }
    html = (HERE / "page.html").read_text(encoding="utf-8")
    for mark, text in parts.items():
        before, after = html.split(mark)
        html = before + text + after
    return html
