"""The report in a real browser."""

from pathlib import Path

from analysis.report import write_report
from tests.analysis.toy import toy_store
from tests.browser import browser

SORT = """(() => {
  const table = document.querySelector("#arms ~ .scroll table.sortable");
  const head = table.tHead.rows[0].cells[%d];
  head.querySelector("button").click();
  return [head.getAttribute("aria-sort"), [...table.tBodies[0].rows].map((row) => row.cells[%d].textContent)];
})()"""


def test_the_page_opens_sorts_and_follows_links_without_errors_or_network(tmp_path: Path) -> None:
    uri, run_id = toy_store(tmp_path / "ws", arms=4, seeds=3)
    page = write_report(uri, run_id, tmp_path / "report")
    with browser(tmp_path / "profile") as shown:
        shown.open(page.as_uri())
        order, means = shown.run(SORT % (2, 2))
        assert order == "ascending"
        assert means == sorted(means)
        order, again = shown.run(SORT % (2, 2))
        assert order == "descending"
        assert again == means[::-1]
        order, differences = shown.run(SORT % (4, 4))
        assert differences[-1] == "–"  # the baseline has none
        assert [float(each) for each in differences[:-1]] == sorted(float(each) for each in differences[:-1])

        inside = shown.run("document.querySelector('a[href^=\"#run-\"]').click(), location.hash")
        assert inside.startswith("#run-")
        shown.until(f"document.getElementById('{inside[1:]}').closest('details').open")
        assert shown.run("document.querySelector('nav a').click(), location.hash") == "#arms"
        assert shown.run("document.querySelectorAll('.downloads a').length") == 2 * shown.run(
            "document.querySelectorAll('figure').length"
        )
        assert shown.run("[...document.images].every((image) => image.complete && image.naturalWidth > 100)")
        assert shown.run("[...document.images].every((image) => image.alt.length > 40)")
        png = shown.run(
            "(() => { const a = [...document.querySelectorAll('.downloads a')][1]; a.addEventListener('click', (e) => e.preventDefault()); "
            "a.click(); return a.href.slice(0, 22); })()"
        )
        assert png == "data:image/png;base64,"

        requested = [told["request"]["url"] for told in shown.told("Network.requestWillBeSent")]
        assert requested[0] == page.as_uri()
        assert {url.partition(":")[0] for url in requested[1:]} <= {"data"}
        assert shown.told("Runtime.exceptionThrown") == []
        assert [told for told in shown.told("Runtime.consoleAPICalled") if told["type"] == "error"] == []
        assert [told for told in shown.told("Log.entryAdded") if told["entry"]["level"] == "error"] == []
