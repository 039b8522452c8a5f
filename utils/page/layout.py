"""The page itself, in Gradio: what is on it, and what happens when something is chosen."""

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from utils.data.pictures import ImageError
from utils.page.networks import BOX_RUN, STAGES, Networks
from utils.page.pictures import (
    Picture,
    drawn_picture,
    read_picture,
    validation_pictures,
    with_box,
    with_evidence,
)

INTRODUCTION = """# What does a FishNet see?

Small networks, trained from scratch on the 200 classes of Tiny ImageNet, look at the central square
of a picture, scaled down to 64×64 pixels. Whatever is in it, the answer is one of these 200
classes.
"""
EVIDENCE = """## Where it finds evidence

Grad-CAM for the most probable class, at the end of the tail and of the body and in the head. Bright
is strong evidence; a dark map has none at any single position. The body has the fine grid again
that the tail gave up.
"""
NETWORK = "Network, with its top-1 on the validation set"
SOME = "Or one of these validation images, which no network here was trained on:"
CSS = """
.gradio-container { max-width: 1100px !important; margin: 0 auto !important; }
.prose h1 { font-size: 2rem; letter-spacing: -.02em; }
.prose h2 { font-size: 1.3rem; letter-spacing: -.01em; }
#message p { border-left: 4px solid #d55e00; margin: 0; padding: .6rem .9rem; }
#message p { background: var(--block-background-fill); overflow-wrap: anywhere; }
#top5 * { font-family: var(--font) !important; }
#pictures .grid-wrap { min-height: 0; }
#pictures .grid-container { grid-template: auto / repeat(6, 1fr); grid-auto-rows: auto; }
#pictures .thumbnail-item { aspect-ratio: 1; height: auto; }
#pictures .caption-label { display: none; }
#maps { flex-wrap: nowrap; gap: .6rem; }
"""
COLORS = ["#1c2126", "#d55e00", "#0173b2", "#029e73"]
SEEN = f"The square that it sees. The box is another network's, `{BOX_RUN}`."
PICTURES = 18  # validation images at a time
PICTURE = {"interactive": False, "buttons": [], "type": "pil"}


class Handlers:
    """What happens: each method is given what Gradio passes and returns the new outputs."""

    def __init__(self, networks: Networks, results_dir: str | Path, data_dir: str | Path) -> None:
        self.networks, self.results_dir, self.data_dir = networks, Path(results_dir), data_dir

    def size(self, run_id: str) -> int:
        """Height and width of the images of a network, in pixels."""
        return self.networks.classifier(run_id)[0].input_shape[1]

    def look(self, run_id: str, picture: Picture | None) -> tuple[Any, ...]:
        """The outputs for a picture, or none of them without one."""
        if picture is None:
            return (None, gr.update(visible=False), *[None] * (3 + len(STAGES)))
        found = self.networks.explain(run_id, picture.pixels)
        maps = [  # a network that is a tail alone has no body and no head
            with_evidence(picture.shown, found.evidence[part]) if part in found.evidence else None
            for part in STAGES
        ]
        truth = f"It is labeled **{picture.words}**." if picture.words else ""
        message = gr.update(visible=False)
        return picture, message, truth, found.top5, with_box(picture.shown, found.box), *maps

    def upload(self, run_id: str, path: str | None) -> tuple[Any, ...]:
        """Classifies a file, or says why that is not possible."""
        if path is None:
            return self.look(run_id, None)
        try:
            return self.look(run_id, read_picture(path, self.size(run_id)))
        except ImageError as error:
            return self.refuse(run_id, error)

    def draw(self, run_id: str, drawing: dict[str, Any] | None) -> tuple[Any, ...]:
        """Classifies a drawing."""
        try:
            return self.look(
                run_id, drawn_picture((drawing or {}).get("composite"), self.size(run_id))
            )
        except ImageError as error:
            return self.refuse(run_id, error)

    def refuse(self, run_id: str, error: ImageError) -> tuple[Any, ...]:
        """Empty outputs and a message."""
        picture, _, *others = self.look(run_id, None)
        text = f"<p role='alert'>{escape(str(error))}</p>"
        return picture, gr.update(value=text, visible=True), *others

    def choose(self, run_id: str, pictures: list[Picture], event: gr.SelectData) -> tuple[Any, ...]:
        """Classifies one of the validation images."""
        return self.look(run_id, pictures[event.index])

    def deal(self, run_id: str, seed: int) -> tuple[Any, ...]:
        """Other validation images; the next seed, the pictures, and how the gallery shows them."""
        kept = self.results_dir / f"{run_id}.npz"
        pictures = validation_pictures(kept, self.data_dir, PICTURES, seed)
        shown = [(picture.shown, str(picture.words)) for picture in pictures]
        return seed + 1, pictures, gr.update(value=shown, selected_index=None)

    def begin(self, run_id: str) -> tuple[Any, ...]:
        """What the page opens with: validation images, and the first of them classified."""
        seed, pictures, gallery = self.deal(run_id, 0)
        return seed, pictures, gallery, *self.look(run_id, pictures[0])


def build_page(
    weights_dir: str | Path = "report/weights",
    data_dir: str | Path = "data/tiny-imagenet",
) -> gr.Blocks:
    """Builds the page; `launch_page` serves it.

    Args:
        weights_dir: folder with `<run_id>.keras`.
        data_dir: folder of the records, whose validation images are shown where they are.

    Returns:
        The `gradio.Blocks`.

    Raises:
        ValueError: there is no kept classifier.
    """
    networks = Networks("report/results", weights_dir)
    do = Handlers(networks, "report/results", data_dir)
    choices = [(title, run_id) for run_id, title in networks.titles.items()]
    title = "FishNet on Tiny ImageNet"
    with gr.Blocks(title=title, analytics_enabled=False) as page:
        picture, pictures, seed = gr.State(None), gr.State([]), gr.State(0)
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                run_id = gr.Dropdown(
                    choices, value=choices[0][1], label=NETWORK, filterable=False, elem_id="network"
                )
                with gr.Tab("Picture"):
                    file = gr.File(label="Drop a picture here", height=170, elem_id="file")
                    gr.Markdown(SOME)
                    gallery = gr.Gallery(
                        height="auto",
                        allow_preview=False,
                        show_label=False,
                        object_fit="cover",
                        elem_id="pictures",
                        buttons=[],
                    )
                    others = gr.Button("Other images", size="sm")
                with gr.Tab("Drawing"):
                    sketch = gr.Sketchpad(
                        type="pil",
                        image_mode="RGB",
                        canvas_size=(320, 320),
                        fixed_canvas=True,
                        layers=False,
                        height=420,
                        elem_id="sketch",
                        show_label=False,
                        brush=gr.Brush(default_size=10, colors=COLORS),
                    )
                    draw = gr.Button("Classify the drawing", variant="primary")
            with gr.Column(scale=4, min_width=320, elem_id="found"):
                message = gr.HTML(visible=False, elem_id="message")
                top5 = gr.Label(num_top_classes=5, label="Most probable classes", elem_id="top5")
                truth = gr.Markdown(elem_id="truth")
                seen = gr.Image(show_label=False, elem_id="seen", **PICTURE)
                gr.Markdown(SEEN)
        gr.Markdown(EVIDENCE)
        with gr.Row(elem_id="maps"):
            maps = [gr.Image(label=part, min_width=80, elem_id=part, **PICTURE) for part in STAGES]
        outputs = [picture, message, truth, top5, seen, *maps]
        one_by_one = {
            "concurrency_limit": 1,
            "concurrency_id": "network",
            "api_visibility": "private",
        }
        file.change(do.upload, [run_id, file], outputs, **one_by_one)
        draw.click(do.draw, [run_id, sketch], outputs, **one_by_one)
        gallery.select(do.choose, [run_id, pictures], outputs, **one_by_one)
        run_id.change(do.look, [run_id, picture], outputs, **one_by_one)
        dealt = [seed, pictures, gallery]
        others.click(do.deal, [run_id, seed], dealt, **one_by_one)
        page.load(do.begin, run_id, [*dealt, *outputs], **one_by_one)
    return page


def launch_page(page: gr.Blocks, **options: Any) -> str:
    """Serves the page on this machine alone, and asks nothing of the network.

    Args:
        page: as `build_page` returns it.
        **options: of `gradio.Blocks.launch`, such as `server_port` or `share`.

    Returns:
        Its address.
    """
    theme = gr.themes.Default(
        primary_hue="sky",
        secondary_hue="sky",
        neutral_hue="slate",
        font=("ui-sans-serif", "system-ui", "sans-serif"),
        font_mono=("ui-monospace", "monospace"),
    )
    defaults = {"server_name": "127.0.0.1", "share": False, "ssr_mode": False, "footer_links": []}
    _, address, _ = page.launch(theme=theme, css=CSS, **{**defaults, **options})
    return address
