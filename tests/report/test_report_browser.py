"""The report in a real browser: drawn, sorted, and without a word to the network."""

import shutil

import pandas as pd
import pytest
from playwright.sync_api import sync_playwright
from report_folders import EVIL, run_folder

from kb_lens.figures.folders import draw_folder
from kb_lens.files import write_text
from kb_lens.report.page import Section, Table, render
from kb_lens.report.write import write_report

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium: `make browser` installs it")


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def open_page(browser):
    """Opens a file as a phone would; returns it and, live, what it complains of or asks for."""

    def opened(path):
        complaints = []

        def asked(request):
            if not request.url.startswith(("file:", "data:", "blob:")):
                complaints.append(request.url)

        page = browser.new_context(offline=True, viewport={"width": 400, "height": 800}).new_page()
        page.set_default_timeout(300_000)  # the page is large, the machine may be busy
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("request", asked)
        page.goto(path.as_uri())
        page.wait_for_function(
            "[...document.querySelectorAll('.plot')].every(plot => plot.querySelector('.main-svg'))"
        )
        return page, complaints

    return opened


@pytest.fixture(scope="module")
def report(open_page, tmp_path_factory):
    """A run's report, opened: the page, the complaints, the path, and the figures' names."""
    folder = tmp_path_factory.mktemp("run")
    run_folder(folder, base=160, lambda_2=158, random_lambda_2=160)
    drawn, path = draw_folder(folder), folder / "report.html"
    write_report(folder, drawn, path)
    return *open_page(path), path, list(drawn)


@pytest.mark.slow
def test_every_figure_is_drawn_and_nothing_is_fetched(report):
    page, complaints, _, names = report
    sizes = page.evaluate(
        "[...document.querySelectorAll('.plot')].map(plot => {"
        "  const drawn = plot.querySelector('svg.main-svg').getBoundingClientRect();"
        "  const marks = plot.querySelectorAll('.plot path, .plot image, .plot rect').length;"
        "  return [drawn.width, drawn.height, marks]; })"
    )
    assert len(sizes) == len(names) > 5
    assert all(width > 300 and height > 100 and marks for width, height, marks in sizes)
    assert complaints == []


def test_texts_are_measured_in_the_font_that_draws_them(report):
    page, *_ = report
    widths = page.evaluate(
        "[...document.querySelectorAll('.plot .annotation')].map(each => ["
        "  each.querySelector('rect.bg').width.baseVal.value,"
        "  each.querySelector('text').getBBox().width, each.textContent])"
    )
    written = [(room, width) for room, width, text in widths if text]
    assert len(written) > 10
    assert all(abs(room - width) < 6 for room, width in written)


def test_text_from_outside_is_shown_and_not_run(report):
    page, complaints, *_ = report
    assert EVIL in page.locator("main").inner_text()
    assert page.locator("img").count() == 0
    for figure in page.locator(".plot").all():
        figure.hover()
    assert page.title() == "Know-bias neurons"
    assert complaints == []


def test_a_phone_scrolls_figures_and_tables_not_the_page(report):
    page, *_ = report
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    assert page.evaluate("document.querySelector('.card').scrollWidth") > 600


def test_the_policy_stops_what_would_be_fetched(open_page, report, tmp_path):
    """The page as it is, and one line more that asks the network."""
    html = report[2].read_text(encoding="utf-8")
    path = tmp_path / "more.html"
    write_text(path, html.replace("<main>", '<main><img src="http://localhost:9/x.png">'))
    _, complaints = open_page(path)
    assert any("Content Security Policy" in text for text in complaints)


# -- sorting -----------------------------------------------------------------------------------


@pytest.fixture
def table(open_page, tmp_path):
    rows = {
        "name": ["lambda 10", "lambda 2", "base", None],
        "change": [-0.5, 12.0, None, -3.0],
        "small": [1e-9, 2.0, -1e-9, 10.0],
    }
    html = render("t", "l", [Section("S", tables=[Table("T", pd.DataFrame(rows))])])
    write_text(tmp_path / "table.html", html)
    page, complaints = open_page(tmp_path / "table.html")
    assert complaints == []
    return page


def column(page, number):
    return page.locator(f"tbody td:nth-child({number})").all_inner_texts()


def order(page, number):
    return page.locator(f"thead th:nth-child({number})").get_attribute("aria-sort")


def test_numbers_sort_as_numbers_both_ways_and_the_missing_stay_last(table):
    head = table.get_by_role("button", name="change")
    assert order(table, 2) is None
    head.click()
    assert column(table, 2) == ["-3.00", "-0.50", "12.00", ""]
    assert order(table, 2) == "ascending"
    head.click()
    assert column(table, 2) == ["12.00", "-0.50", "-3.00", ""]
    assert column(table, 1) == ["lambda 2", "lambda 10", "", "base"]
    assert order(table, 2) == "descending"


def test_numbers_sort_by_more_than_is_shown(table):
    table.get_by_role("button", name="small").click()
    assert column(table, 3) == ["0.00", "0.00", "2.00", "10.00"]


def test_words_sort_with_their_numbers(table):
    table.get_by_role("button", name="change").click()
    table.get_by_role("button", name="name").click()
    assert column(table, 1) == ["base", "lambda 2", "lambda 10", ""]
    assert (order(table, 1), order(table, 2)) == ("ascending", None)


@pytest.mark.slow
@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_the_keyboard_sorts(table, key):
    head = table.get_by_role("button", name="change")
    table.locator(".scroll").focus()
    table.keyboard.press("Tab")
    table.keyboard.press("Tab")
    assert head.evaluate("button => button === document.activeElement")
    table.keyboard.press(key)
    assert column(table, 2) == ["-3.00", "-0.50", "12.00", ""]
    table.keyboard.press(key)
    assert column(table, 2) == ["12.00", "-0.50", "-3.00", ""]
