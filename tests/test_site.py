"""The static page: in step with the results, and working in a browser without a network."""

import base64
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from utils.analysis.published import COURSE_REPORT
from utils.analysis.tables import summary
from utils.models.build import build_model
from utils.site.build import render
from utils.site.contents import grad_cam_strip
from utils.training.predictions import load_predictions
from utils.training.results import load_results, read_result

SITE = Path("report/site")


@pytest.fixture
def result():
    return read_result("report/results/complex-tuned-v2-30ep-activation-silu-seed0.json")


def data_of(html):
    """The contents that `render` filled in."""
    return json.loads(html.split('type="application/json">')[1].split("</script>")[0])


def maps_of(contents):
    """Takes the Grad-CAM maps out of contents; they are sums in float32, rounded."""
    maps = contents["gradCam"].pop("maps")
    return {
        stage: np.frombuffer(base64.b64decode(m.pop("values")), np.uint8).reshape(8, m["side"], -1)
        for stage, m in maps.items()
    }


def test_a_row_without_a_time_of_its_own_can_be_written(monkeypatch):
    from utils.site import contents

    table = pd.DataFrame({"preset": ["simple"], "changes": [("SiLU",)], "s / epoch": [np.nan]})
    monkeypatch.setattr(contents, "summary", lambda results: table)
    assert contents._rows([], {"simple": "#000000"}) == [
        {"network": "simple, SiLU", "seconds": None, "color": "#000000"}
    ]


def test_minutes_are_those_of_an_idle_machine_where_it_was_measured(result):
    from utils.site.contents import _run

    result["history"]["seconds"] = [600.0] * 30
    predictions = {"classes": np.zeros((1, 1)), "probabilities": np.ones((1, 1))}
    result["seconds"]["epoch"] = 90.0
    minutes = _run(result, "#000000", predictions)["history"]["minutes"]
    assert (minutes[0], minutes[29]) == (1.5, 45)
    del result["seconds"]["epoch"]
    assert _run(result, "#000000", predictions)["history"]["minutes"][29] == 300
    moved = [{"epoch": epoch, "env": {"device": device}} for epoch, device in ((0, "a"), (9, "b"))]
    assert _run(result | {"legs": moved}, "#000000", predictions)["history"]["minutes"][29] is None


def test_without_weights_there_is_no_page(monkeypatch, capsys):
    from utils.site import contents

    monkeypatch.setattr(contents, "kept", lambda *_: [])
    message = "weights in report/weights; 03_train makes one."
    with pytest.raises(ValueError, match=message):
        contents.site_contents()
    monkeypatch.setattr(sys, "argv", ["site"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("utils.site", run_name="__main__")
    assert ended.value.code == 1
    assert message in capsys.readouterr().err


@pytest.mark.tracing
def test_the_committed_page_shows_what_the_results_are():
    from utils.site.contents import site_contents

    html = (SITE / "index.html").read_text(encoding="utf-8")
    committed = data_of(html)
    assert render(committed) == html, "Run python -m utils.site."
    expected = json.loads(json.dumps(site_contents()))
    maps, expected_maps = maps_of(committed), maps_of(expected)
    assert committed == expected, "Run python -m utils.site."
    assert maps.keys() == expected_maps.keys()
    for stage, values in maps.items():
        np.testing.assert_allclose(values, expected_maps[stage].astype(float), atol=3)


def test_it_is_below_3_mb_and_loads_nothing_from_elsewhere():
    assert sum(path.stat().st_size for path in SITE.iterdir()) < 3e6
    assert {path.name for path in SITE.iterdir()} == {"index.html", "plotly-cartesian.min.js"}


def test_data_cannot_end_the_script_that_holds_it():
    contents = {"words": ["</script><b>"]}
    html = render(contents)
    assert "</script><b>" not in html
    assert data_of(html) == contents


@pytest.fixture(scope="module")
def open_site(browser):
    """Opens the page without a network; collects what goes wrong, and what it asks for."""
    problems, requests = [], []

    def open_it(width=1280, scheme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto((SITE / "index.html").absolute().as_uri())
        page.wait_for_selector("#cam canvas")
        return page

    yield open_it
    assert problems == []
    assert {url.partition(":")[0] for url in requests} <= {"file", "data", "blob"}


@pytest.fixture(scope="module")
def site(open_site):
    return open_site()


def column(site, number):
    return site.locator(f"#table tbody tr > :nth-child({number})").all_inner_texts()


def test_the_table_sorts(site):
    table = summary(load_results("report/results"))
    top1 = [*table["validation top-1"], *COURSE_REPORT["val_top1"]]
    shown = [text.split("%")[0] for text in column(site, 3)]
    assert shown == [f"{100 * value:.1f}" for value in sorted(top1, reverse=True)]
    site.get_by_role("button", name="epochs", exact=True).click()
    assert site.locator("th[aria-sort=descending]").inner_text().startswith("epochs")
    epochs = [int(text) for text in column(site, 2)]
    assert epochs == sorted(epochs, reverse=True)
    site.locator("#table").get_by_role("button", name="MACs").click()
    site.locator("#table").get_by_role("button", name="MACs").click()
    assert column(site, 8)[0] == f"{table['MACs'].min() / 1e6:.1f} M"
    assert column(site, 8)[-1] == "–"  # the course report does not give them


def test_the_curves_follow_the_choice(site):
    traces = "document.getElementById('curve-plot').data.length"
    runs = site.locator("#curve-runs button[aria-pressed=true]")
    assert runs.count() == site.evaluate("data.runs.filter((r) => r.epochs === 30).length")
    assert site.evaluate(traces) == 2 * runs.count()  # training and validation
    runs.first.click()
    assert site.evaluate(traces) == 2 * runs.count()
    site.locator("#curve-runs button[aria-pressed=false]").first.click()
    site.locator("#curve-measure button", has_text="learning rate").click()
    assert site.evaluate(traces) == runs.count()
    names = site.evaluate("data.runs.map((r) => r.name)")
    assert "complex, SiLU, tuned, 30 epochs, seed 1" in names
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("what", ["parameters", "macs"])
def test_accuracy_is_shown_against(site, what):
    site.locator(f"#cost-axis button[value={what}]").click()
    drawn = site.evaluate("document.getElementById('cost-plot').data.map((t) => t.x)")
    assert site.evaluate("Math.max(...data.runs.map((r) => r.top1))") < site.evaluate(
        "document.getElementById('cost-plot').layout.yaxis.range[1]"
    )
    own = [x for trace in drawn[:4:2] for x in trace]  # each group has a trace for the legend, too
    assert sorted(own) == sorted(site.evaluate(f"data.runs.map((r) => r.{what})"))


def test_a_confused_pair_is_zoomed_to_and_a_class_opened(site):
    image = site.evaluate("document.getElementById('matrix-plot').data[0].customdata")
    assert np.shape(image) == (200, 200)
    assert np.sum(image) == 10_000
    site.locator("#matrix-pairs button").first.click()
    low, high = site.evaluate("document.getElementById('matrix-plot').layout.xaxis.range")
    assert high - low < 100
    site.get_by_role("button", name="Whole matrix").click()
    assert site.evaluate("document.getElementById('matrix-plot').layout.xaxis.range") == [
        -0.5,
        199.5,
    ]


def test_the_class_browser_finds_a_class(site):
    site.locator("#class-filter").fill("Persian")
    site.locator("#class-list button").click()
    detail = site.locator("#class-detail")
    assert detail.locator("h3").inner_text() == "Persian cat"
    assert detail.locator(".rows").first.locator("li").count() == site.evaluate("data.runs.length")
    site.locator("#class-filter").fill("no such thing")
    assert site.locator("#class-list").inner_text() == "No class is called “no such thing”."


def test_it_fits_a_phone_in_the_dark(open_site):
    phone = open_site(width=400, scheme="dark")
    assert phone.evaluate("document.documentElement.scrollWidth") == 400
    ground, ink = (
        phone.evaluate(f"getComputedStyle(document.body)['{name}'].match(/\\d+/g).map(Number)")
        for name in ("background-color", "color")
    )
    assert max(ground) < 50
    assert min(ink) > 200
    assert phone.evaluate("document.getElementById('matrix-plot').layout.font.color") == "#e6e9eb"


def test_a_network_without_a_body_has_the_maps_of_its_tail():
    predictions = load_predictions("report/results/simple-tuned-8ep-seed0.npz")
    strip = grad_cam_strip(build_model("simple_tail"), predictions, count=2)
    assert strip["images"] == predictions["sample"][:2].tolist()
    labels = predictions["labels"][strip["images"]]
    assert strip["right"] == (predictions["classes"][strip["images"], 0] == labels).tolist()
    assert {stage: m["side"] for stage, m in strip["maps"].items()} == {"tail_1": 8, "tail_3": 2}
