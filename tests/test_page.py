"""The page on which pictures are classified: what it computes, and its use in a browser."""

import runpy
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.data.manifest import load_manifest
from utils.data.pictures import ImageError
from utils.models.build import build_model
from utils.training.predictions import load_predictions
from utils.training.results import read_result, write_result

pytest.importorskip("gradio")

from utils.page.layout import build_page, launch_page
from utils.page.networks import BOX_RUN, Networks
from utils.page.pictures import (
    SIDE,
    drawn_picture,
    read_picture,
    validation_pictures,
    with_box,
    with_evidence,
)

pytestmark = pytest.mark.tracing
FIRST, SECOND = "simple-tuned-20ep-seed0", "simple-course-30ep-seed0"  # the better one first
LOCAL = {"127.0.0.1", "localhost", "::1", "0.0.0.0", None}
KEPT = Path(f"report/results/{FIRST}.npz")


def test_networks_without_weights(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path} has no weights of a classifier"):
        Networks(weights_dir=tmp_path)


def test_networks_of_runs_that_are_in_no_table_are_not_offered(tmp_path):
    """Such as one on the hold-out, whose accuracy is not that on the validation images."""
    shutil.copy(KEPT, tmp_path)
    (tmp_path / f"{FIRST}.keras").touch()
    result = read_result(KEPT.with_suffix(".json"))
    write_result(tmp_path / f"{FIRST}.json", result)
    assert [*Networks(tmp_path, tmp_path).titles] == [FIRST]
    result["metrics"]["split"] = "holdout"
    write_result(tmp_path / f"{FIRST}.json", result)
    with pytest.raises(ValueError, match="has no weights of a classifier"):
        Networks(tmp_path, tmp_path)


def test_a_picture_is_shown_whole_and_seen_as_classify_does(tmp_path):
    Image.new("RGB", (900, 600), "red").save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png", 64)
    assert picture.shown.size == (SIDE, SIDE)
    assert picture.pixels.shape == (64, 64, 3)
    assert (picture.pixels == [255, 0, 0]).all()


def test_the_message_about_a_bad_file_does_not_name_its_folder(tmp_path):
    (tmp_path / "a.png").write_text("words")
    with pytest.raises(ImageError, match=r"^a\.png is not an image that Pillow can read\.$"):
        read_picture(tmp_path / "a.png", 64)


@pytest.mark.parametrize("drawing", [None, Image.new("RGB", (320, 320), "white")])
def test_an_empty_drawing(drawing):
    with pytest.raises(ImageError, match=r"^Nothing was drawn\. Draw something first\.$"):
        drawn_picture(drawing, 64)


def test_a_drawing():
    drawing = Image.new("RGB", (320, 320), "white")
    drawing.paste("black", (0, 0, 160, 320))
    picture = drawn_picture(drawing, 64)
    assert (picture.pixels[:, :32] == 0).all()
    assert (picture.pixels[:, 32:] == 255).all()


def test_validation_images_are_those_of_the_records_where_they_are(shapes):
    pictures = validation_pictures(KEPT, shapes, 5, seed=0)
    assert len(pictures) == 5
    assert {picture.words for picture in pictures} <= set(load_manifest(shapes)["words"])
    others = validation_pictures(KEPT, shapes, 5, seed=1)
    assert any((a.pixels != b.pixels).any() for a, b in zip(pictures, others, strict=True))


def test_validation_images_are_else_those_that_are_kept(tmp_path):
    kept = load_predictions(KEPT)
    picture = validation_pictures(KEPT, tmp_path, 5, seed=0)[0]
    words = kept["words"][kept["labels"][kept["sample"][:48]]]
    assert picture.words in words
    assert picture.shown.size == (SIDE, SIDE)


def test_box_and_evidence_are_drawn_where_they_are():
    image = Image.new("RGB", (SIDE, SIDE), "gray")
    box = np.asarray(with_box(image, np.array([0.25, 0.25, 0.75, 0.75])))
    assert (box[SIDE // 2, SIDE // 4 + 2] != 128).any()
    assert (box[SIDE // 2, SIDE // 2] == 128).all()
    assert with_box(image, None).tobytes() == image.tobytes()
    thin = np.asarray(with_box(image, np.array([0.5, 0.25, 0.501, 0.75])))
    assert (thin[SIDE // 2, SIDE // 2] == 255).all()  # its white frame alone
    warm = np.asarray(with_evidence(image, np.array([[0.0, 1.0], [0.0, 1.0]]))).astype(int)
    assert warm[:, -1].sum() > 2 * warm[:, 0].sum()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    weights = tmp_path_factory.mktemp("weights")
    for run_id in (FIRST, SECOND, BOX_RUN):
        shutil.copy(f"report/weights/{run_id}.keras", weights)
    page = build_page(weights_dir=weights, data_dir=tmp_path_factory.mktemp("no-records"))
    look_up, hosts = socket.getaddrinfo, set()

    def noting(host, *arguments, **options):
        hosts.add(host.decode() if isinstance(host, bytes) else host)
        return look_up(host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", noting)
        yield launch_page(page, prevent_thread_lock=True, quiet=True)
        page.close()
    assert "127.0.0.1" in hosts
    assert hosts <= LOCAL


@pytest.fixture(scope="module")
def open_page(address, browser):
    requests, errors = [], []

    def open_it(width=1280):
        page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
        page.set_default_timeout(120_000)  # the machine may be busy
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#Head img")
        return page

    yield open_it
    assert errors == []
    local = (address, "data:", f"blob:{address}")
    assert [url for url in requests if not url.startswith(local)] == []


@pytest.fixture
def page(open_page):
    return open_page()


def top_of(page):
    return page.locator("#top5 .confidence-set")


def test_it_is_served_on_this_machine_alone(address):
    assert address.startswith("http://127.0.0.1:")


def test_a_port_that_is_taken(monkeypatch, capsys):
    def taken(page, **options):
        raise OSError("Cannot find empty port in range: 80-80.")

    monkeypatch.setattr("utils.page.layout.launch_page", taken)
    monkeypatch.setattr("utils.page.layout.build_page", lambda: None)
    monkeypatch.setattr(sys, "argv", ["page", "--port", "80"])
    with pytest.raises(SystemExit):
        runpy.run_module("utils.page", run_name="__main__")
    said = "Cannot find empty port in range: 80-80. Choose another --port, or none.\n"
    assert capsys.readouterr().err == said


def test_it_opens_with_a_validation_image_classified(page):
    top_of(page).nth(4).wait_for()
    assert page.locator("#pictures img").count() == 18
    first = page.locator("#pictures img").first.get_attribute("alt")
    assert page.locator("#truth").inner_text() == f"It is labeled {first}."
    for image in ("seen", "Tail", "Body", "Head"):
        shown = page.locator(f"#{image} img")
        assert shown.evaluate("async (i) => { await i.decode(); return i.naturalWidth }") == SIDE


def test_an_upload_is_classified_as_the_kept_predictions_say(page, tmp_path):
    of_first, of_second = (load_predictions(KEPT.with_stem(run)) for run in (FIRST, SECOND))
    differ = of_first["classes"][:, 0] != of_second["classes"][:, 0]
    number = np.flatnonzero(differ[of_first["sample"]])[0]
    (tmp_path / "mine.jpeg").write_bytes(of_first["jpeg"][number])
    image = of_first["sample"][number]
    page.set_input_files("#file input[type=file]", tmp_path / "mine.jpeg")
    words = of_first["words"][of_first["classes"][image]]
    page.locator("#top5 h2", has_text=str(words[0])).wait_for()
    shown = [text.split("\n") for text in top_of(page).all_inner_texts()]
    assert [line[0].strip() for line in shown] == words.tolist()
    percents = [int(line[-1].removesuffix("%")) for line in shown]
    np.testing.assert_allclose(percents, 100 * of_first["probabilities"][image], atol=1)
    assert page.locator("#truth").inner_text() == ""
    page.locator("#network input").click()
    page.get_by_role("option", name=SECOND.removesuffix("-seed0")).click()
    second = of_second["words"][of_second["classes"][image, 0]]  # predicted in bfloat16
    page.locator("#top5 h2", has_text=str(second)).wait_for()


def test_a_bad_upload_says_why(page, tmp_path):
    (tmp_path / "<b>bad.jpg").write_bytes(b"not an image")
    page.set_input_files("#file input[type=file]", tmp_path / "<b>bad.jpg")
    message = page.locator("#message [role=alert]")
    message.wait_for()
    assert message.inner_text().endswith("bad.jpg is not an image that Pillow can read.")
    assert page.locator("#top5 .confidence-set").count() == 0
    page.locator("#pictures button").nth(3).click()
    message.wait_for(state="detached")
    top_of(page).first.wait_for()


def test_a_drawing_is_classified_on_a_phone(open_page):
    phone = open_page(width=400)
    assert phone.evaluate("document.documentElement.scrollWidth") == 400
    phone.get_by_role("tab", name="Drawing").click()
    phone.get_by_role("button", name="Classify the drawing").click()
    phone.locator("#message", has_text="Nothing was drawn. Draw something first.").wait_for()
    phone.get_by_role("button", name="Brush").click()
    canvas = phone.locator("#sketch canvas").first
    canvas.click(position={"x": 150, "y": 200})
    canvas.click(position={"x": 190, "y": 240})
    phone.get_by_role("button", name="Classify the drawing").click()
    top_of(phone).nth(4).wait_for()
    assert phone.locator("#message [role=alert]").count() == 0


def test_a_network_without_a_body_has_the_evidence_of_its_tail(monkeypatch):
    model = build_model("simple_tail"), [f"class {i}" for i in range(200)]
    monkeypatch.setattr(Networks, "classifier", lambda self, run_id: model)
    found = Networks().explain("tail", np.zeros((64, 64, 3), np.uint8))
    assert found.evidence.keys() == {"Tail"}
    assert len(found.top5) == 5
