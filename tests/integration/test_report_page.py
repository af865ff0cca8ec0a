"""The report's page in a real browser: it sorts, copies, fits a phone, can be read by all, and keeps to itself."""

import contextlib
import re
from importlib import resources
from pathlib import Path

import chromium
import pytest
from report_runs import write_everything

from dcnlab.ablations.report import page as report

pytestmark = chromium.needed

RUNS = "[...document.querySelectorAll('table')].find(t => t.caption.textContent.startsWith('layers: each run'))"
VIEWS = [(1280, "light"), (1280, "dark"), (360, "light"), (360, "dark")]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    home = tmp_path_factory.mktemp("page")
    with contextlib.chdir(home):
        write_everything(Path("runs"))
        return report.write(Path("runs")).resolve().as_uri()


@pytest.fixture(scope="module")
def browser():
    with chromium.page() as page:
        yield page


@pytest.fixture
def page(browser, address):
    """The report, freshly opened on a large bright screen."""
    browser.requests.clear()
    browser.complaints.clear()
    browser.media()
    browser.resize(1280)
    browser.open(address)
    return browser


def column(page, number):
    return page.run(f"[...{RUNS}.tBodies[0].rows].map(row => row.cells[{number}].textContent)")


def order(page):
    return page.run(f"[...{RUNS}.tHead.rows[0].cells].map(head => head.getAttribute('aria-sort'))")


def test_a_second_click_on_a_heading_reverses_the_order(page):
    """A click sorts whole rows by the column and sets aria-sort; the next click sorts the other way."""
    x, y = page.run(
        f"{{ const button = {RUNS}.tHead.rows[0].cells[3].querySelector('button');"
        "button.scrollIntoView({ behavior: 'instant', block: 'center' });"
        "const box = button.getBoundingClientRect(); [box.x + box.width / 2, box.y + box.height / 2] }"
    )
    page.click(x, y)
    assert column(page, 3) == ["70.00", "72.00", "75.00", "75.50", "76.00", "77.00"]
    assert order(page) == [None, None, None, "ascending", None, None]
    page.click(x, y)
    assert column(page, 3) == ["77.00", "76.00", "75.50", "75.00", "72.00", "70.00"]
    assert column(page, 0)[0] == "l0s2"  # rows move whole
    assert order(page) == [None, None, None, "descending", None, None]


def test_the_keyboard_reaches_the_headings_and_sorts(page):
    """Tab moves to the next heading, Enter and Space sort by it."""
    page.run(f"{RUNS}.tHead.rows[0].cells[1].querySelector('button').focus()")
    page.press("Tab")
    assert page.run("document.activeElement.textContent") == "seed"
    page.press("Enter")
    assert column(page, 2) == ["0", "0", "1", "1", "2", "2"]
    page.press(" ")
    assert column(page, 2) == ["2", "2", "1", "1", "0", "0"]


def test_missing_values_sort_last_in_both_orders(page):
    """Values sort as numbers; a cell marked absent is last in ascending and in descending order."""
    page.run(f"{RUNS}.tBodies[0].rows[1].cells[3].dataset.absent = ''")
    found = []
    for _ in range(2):
        page.run(f"{RUNS}.tHead.rows[0].cells[3].querySelector('button').click()")
        found.append(column(page, 0))
    assert found == [["l0s0", "l3s0", "l3s1", "l3s2", "l0s2", "l0s1"], ["l0s2", "l3s2", "l3s1", "l3s0", "l0s0", "l0s1"]]


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_wide_tables_scroll_and_the_page_does_not(page, width):
    """From 320 to 1280 pixels nothing reaches past the window; each scrollable table takes the focus."""
    page.resize(width)
    page.run("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.run("document.documentElement.scrollWidth") <= width
    out = "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1"
    out += " && !e.closest('.scroll, pre, .unseen, .skip')).map(e => e.outerHTML.slice(0, 80))"
    assert page.run(out) == []
    frames = page.run("[...document.querySelectorAll('.scroll')].map(e => [e.scrollWidth - e.clientWidth, e.tabIndex])")
    assert {index for _, index in frames} == {0}
    if width < 400:
        assert max(wider for wider, _ in frames) > 0


def test_a_phone_shows_differences_and_folds_details(page, address):
    """At 390 pixels the difference of each row is on the screen, and runs and costs are one line each."""
    page.resize(390, 844)
    page.open(address)
    cells = "[...document.querySelectorAll('#group-1 td[data-label^=difference]')].filter(e => e.textContent)"
    edges = page.run(f"{cells}.map(e => {{ const box = e.getBoundingClientRect(); return [box.left, box.right] }})")
    assert edges
    assert all(0 <= left and right <= 390 for left, right in edges)
    label = page.run(f"getComputedStyle({cells}[0], '::before').content")
    assert "difference" in label
    assert page.run("[...document.querySelectorAll('details')].every(one => !one.open)")
    assert page.run("document.documentElement.scrollHeight") < 10_000


def test_a_large_screen_opens_details_and_cues_what_scrolls(page):
    """At 1280 pixels runs are shown; a table says that it scrolls exactly where it is wider than its frame."""
    assert page.run("[...document.querySelectorAll('details.fold')].every(one => one.open)")
    page.resize(500)
    page.run("new Promise(done => setTimeout(done, 100))")
    frames = page.run(
        "[...document.querySelectorAll('.scroll')].filter(e => e.checkVisibility()).map(e => [e.scrollWidth - 1 > "
        "e.clientWidth, getComputedStyle(e.querySelector('caption span'), '::after').content.includes('Scroll')])"
    )
    assert all(wider == cued for wider, cued in frames)
    assert any(wider for wider, _ in frames)


def test_the_first_screen_has_a_chart_and_a_picture(page):
    """The overview's chart and a run's picture are in the first 900 pixels of a large screen."""
    tops = page.run("['svg.chart', 'img'].map(name => document.querySelector(name).getBoundingClientRect().bottom)")
    assert max(tops) < 900


def violations(page):
    """What axe-core finds wrong, with the element."""
    page.run(resources.files("axe_core_python").joinpath("axe.min.js").read_text() + "; true")
    return page.run("axe.run().then(said => said.violations.map(v => [v.id, v.nodes[0].html.slice(0, 90)]))")


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_axe_finds_no_violation(page, width, scheme):
    """In each width and colour scheme, with all details opened."""
    page.resize(width)
    page.media(scheme=scheme)
    page.run("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert violations(page) == []


def test_axe_finds_a_missing_language_and_faint_text(page):
    """Control of the accessibility check: axe must report both faults when they are put in."""
    page.run("document.documentElement.removeAttribute('lang')")
    # A rule of the page's own, as its policy lets no other style in.
    page.run("document.styleSheets[0].insertRule('.lead { color: #aaa !important }')")
    assert sorted(name for name, _ in violations(page)) == ["color-contrast", "html-has-lang"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_have_enough_contrast_with_the_page(page, scheme):
    """WCAG 2: 4.5 to 1 for text (1.4.3), 3 to 1 for lines (1.4.11); axe does not check SVG."""
    page.media(scheme=scheme)
    paper = colour(page.run("getComputedStyle(document.body).backgroundColor"))
    for name, kind, least in (
        ("text", "fill", 4.5),
        (".line", "stroke", 3),
        (".marker", "fill", 3),
        (".dot", "stroke", 3),
    ):
        shown = page.run(
            f"[...new Set([...document.querySelectorAll('svg {name}')].map(e => getComputedStyle(e)['{kind}']))]"
        )
        assert shown
        for one in shown:
            assert contrast(colour(one), paper) >= least, (name, one)


def test_the_contrast_formula_is_wcags():
    """Black on white is 21; the well-known grey #767676 is 4.54."""
    assert contrast((255, 255, 255), (0, 0, 0)) == pytest.approx(21)
    assert contrast((118, 118, 118), (255, 255, 255)) == pytest.approx(4.54, abs=0.005)  # the well-known #767676


def colour(text):
    assert text.startswith("rgb("), text
    return tuple(map(int, re.findall(r"\d+", text)))


def contrast(one, other):
    def luminance(rgb):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in rgb)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, bright = sorted((luminance(one), luminance(other)))
    return (bright + 0.05) / (dark + 0.05)


def test_lines_differ_by_shape_as_well_as_by_colour(page):
    """Readers who see no colours tell the two lines of a chart by their markers."""
    shapes = page.run("[...document.querySelectorAll('.legend')][0].querySelectorAll('.marker').length")
    assert shapes == 2
    drawn = page.run(
        "[...document.querySelectorAll('.legend')[0].querySelectorAll('.marker')]"
        ".map(e => e.tagName + (e.getAttribute('d') || ''))"
    )
    assert len(set(drawn)) == 2


def test_the_page_makes_no_request_and_logs_no_error(page, address):
    """All images are inside the page, and the console stays empty."""
    page.run("window.scrollTo(0, document.body.scrollHeight)")
    assert {request for request in page.requests if not request.startswith("data:")} == {address}
    assert page.complaints == []
    assert page.run("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


def test_scripts_in_run_texts_are_never_executed(page):
    """The page's Content Security Policy blocks inserted handlers and scripts."""
    assert page.run("document.title") == "Ablations in runs"
    page.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"document.title = 1\">')")
    page.run(
        "{ const s = document.createElement('script'); s.textContent = 'document.title = 2'; document.body.append(s) }"
    )
    assert page.run("document.title") == "Ablations in runs"
    assert any("Content Security Policy" in complaint for complaint in page.complaints)


def test_a_copied_command_is_announced_to_screen_readers(page, address):
    """The keyboard copies a run's command, and a status element says so."""
    page.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    page.run("document.querySelectorAll('details').forEach(one => one.open = true)")
    page.run("document.querySelector('#group-1 .command button').focus()")
    page.press("Enter")
    page.run("new Promise(done => setTimeout(done, 200))")
    assert page.run("document.querySelector('[role=status]').textContent") == "Command copied"
    assert page.run("navigator.clipboard.readText()") == "dcnlab fit runs/layers/l0s0/config.yaml id=null"


def test_the_first_tab_stop_skips_the_contents(page):
    """The hidden link appears on focus and leads to the findings."""
    page.press("Tab")
    assert page.run("document.activeElement.textContent") == "Skip to the findings"
    assert page.run("document.activeElement.getBoundingClientRect().x") >= 0
    page.press("Enter")
    assert page.run("document.activeElement.id") == "main"


def test_without_scripts_the_page_has_tables_and_no_buttons(page, address):
    """With JavaScript off all tables and charts are there, and no button that cannot work."""
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.open(address)
        page.call("DOM.enable")
        root = page.call("DOM.getDocument")["root"]["nodeId"]
        count = {
            name: len(page.call("DOM.querySelectorAll", nodeId=root, selector=name)["nodeIds"])
            for name in ("table", "button", "svg.chart")
        }
    finally:
        page.call("Emulation.setScriptExecutionDisabled", value=False)
    assert count["button"] == 0
    assert count["table"] > 10
    assert count["svg.chart"] > 4


def test_print_is_black_on_white_without_navigation(page):
    """Also in the dark scheme; no table is wider than the paper."""
    page.media("print", "dark")
    page.resize(700)
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.run("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    for name in ("nav", ".skip"):
        assert page.run(f"getComputedStyle(document.querySelector('{name}')).display") == "none"
    wide = page.run("[...document.querySelectorAll('table')].filter(t => t.getBoundingClientRect().right > 701).length")
    assert wide == 0
