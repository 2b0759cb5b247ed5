"""The report in a real browser."""

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from analysis.report import write_report
from tests.analysis.toy import toy_store
from tests.browser import browser

SORT = """(() => {
  const table = document.querySelector("#answer").parentElement.querySelector("table.sortable");
  const head = table.tHead.rows[0].cells[%d];
  head.querySelector("button").click();
  return [head.getAttribute("aria-sort"), [...table.tBodies[0].rows].map((row) => row.cells[%d].textContent)];
})()"""


def float_of(text: str) -> float:
    return float(text.replace("−", "-"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("page")
    uri, run_id = toy_store(home / "ws", arms=4, seeds=3)
    return write_report(uri, run_id, home / "report")


def test_the_page_opens_sorts_and_follows_links_without_errors_or_network(page: Path) -> None:
    with browser(page) as shown:
        order, means = shown.run(SORT % (2, 2))
        assert order == "ascending"
        assert means == sorted(means)
        order, again = shown.run(SORT % (2, 2))
        assert order == "descending"
        assert again == means[::-1]
        order, differences = shown.run(SORT % (4, 4))
        assert differences[-1] == "–"  # the baseline has none
        values = [float_of(difference) for difference in differences[:-1]]
        assert values == sorted(values)

        inside = shown.run("document.querySelector('a[href^=\"#run-\"]').click(), location.hash")
        assert inside.startswith("#run-")
        shown.page.wait_for_function(f"document.getElementById('{inside[1:]}').closest('details').open")
        assert shown.run("document.querySelector('nav a').click(), location.hash") == "#answer"
        assert shown.run("document.querySelectorAll('.downloads a').length") == 2 * shown.run(
            "document.querySelectorAll('figure').length"
        )
        assert shown.run("[...document.images].every((image) => image.complete && image.naturalWidth > 10)")
        assert shown.run("[...document.images].every((image) => image.alt.length > 20)")
        assert shown.run("document.querySelector('figure').dataset.name") == "forest"
        saved = shown.run(
            "(() => { const [svg, png] = document.querySelectorAll('.downloads a'); png.addEventListener('click', (e)"
            " => e.preventDefault()); png.click(); return [png.href.slice(0, 22), atob(svg.href.split(',')[1])]; })()"
        )
        assert saved[0] == "data:image/png;base64,"
        assert "<svg" in saved[1]
        assert "var(--" not in saved[1]
        assert shown.requested[0] == page.as_uri()
        assert {url.partition(":")[0] for url in shown.requested[1:]} <= {"data"}
        assert shown.errors == []


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_figures_follow_the_colours_of_the_page(page: Path, scheme: str, dark: bool) -> None:
    with browser(page, color_scheme=scheme) as shown:
        ground = shown.run("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(21, 25, 29)") is dark
        corner = shown.page.locator("figure img").first.screenshot()
        pixels = Image.open(BytesIO(corner)).convert("L")
        paper = pixels.getpixel((20, 20))
        assert isinstance(paper, int)
        assert (paper < 60) is dark
        low, high = pixels.getextrema()
        assert high - low > 150  # ink on paper, either way


def test_a_phone_scrolls_tables_and_not_the_page(page: Path) -> None:
    with browser(page, viewport={"width": 390, "height": 800}) as shown:
        assert shown.run("document.documentElement.scrollWidth") <= 390
        assert shown.run(
            "[...document.querySelectorAll('.scroll')].some((each) => each.scrollWidth > each.clientWidth)"
        )


def test_paper_shows_what_is_folded(page: Path) -> None:
    with browser(page) as shown:
        shown.page.emulate_media(media="print")
        shown.run("dispatchEvent(new Event('beforeprint'))")
        assert shown.run("[...document.querySelectorAll('details.printed')].every((each) => each.open)")
        assert shown.run("getComputedStyle(document.querySelector('nav')).display") == "none"
