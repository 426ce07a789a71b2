"""The page of a human study in a real browser without a network: by keyboard, by mouse, on a phone, and back again."""

import shutil

import pytest

from ecr_ray.evaluation.study import ratings, sheets
from ecr_ray.evaluation.study.design import MEASURES, Item

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
REPLIES = [
    "=Titanic (1997), “of course”, it is;\nso sad",
    "<img src=x onerror=alert(1)> I like <b>Alien</b>",
    "x" * 3000,
]
NUMBERS = ["1000001", "1000002", "1000003"]
CONTEXT = [
    {"role": "seeker", "text": "I feel blue & want <i>ships</i>."},
    {"role": "recommender", "text": "Sad ones?"},
    {"role": "seeker", "text": "Yes"},
]
ITEMS = [[Item(number, "a", f"t{number}", "d", False) for number in NUMBERS]]


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs a Chromium on the path (Debian: apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def address(tmp_path):
    file = tmp_path / "rater-1.html"
    file.write_bytes(sheets.page(1, NUMBERS, [CONTEXT] * 3, REPLIES))
    return file.as_uri()


@pytest.fixture
def page(browser, address):
    """Open, without a network; whatever the page complains of, or asks for elsewhere, fails the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, accept_downloads=True)
    context.set_offline(True)
    found, complaints = context.new_page(), []
    found.on("pageerror", lambda error: complaints.append(str(error)))
    found.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    found.on("request", lambda asked: None if asked.url == address else complaints.append(asked.url))
    found.goto(address)
    yield found
    context.close()
    assert [text for text in complaints if not text.startswith("blob:")] == []


def download(page, path):
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download ratings").click()
    assert waiting.value.suggested_filename == "rater-1.csv"
    waiting.value.save_as(path)
    return ratings.read([path], ITEMS)


def test_by_keyboard_alone_and_the_sheet_is_the_one_that_came_with_it(page, tmp_path):
    page.locator("main").focus()
    for n in range(3):
        # Each digit goes on to the next measure; after the last one Enter goes on to the next item.
        for measure in range(len(MEASURES)):
            page.keyboard.press(str((n + measure) % 10))
        if n < 2:
            page.keyboard.press("Enter")
    assert page.get_by_text("All items are rated").is_visible()
    assert page.evaluate("document.activeElement.id") == "save"
    found = download(page, tmp_path / "rater-1.csv")
    assert (found.set_aside, found.missing) == ([], [])
    assert [list(rating.values.values()) for rating in found.ratings] == [
        [(n + measure) % 10 for measure in range(len(MEASURES))] for n in range(3)
    ]
    # But for the ratings it is, byte for byte, what the command wrote for a spreadsheet.
    empty = sheets.sheet(NUMBERS, [CONTEXT] * 3, REPLIES).decode()
    filled = (tmp_path / "rater-1.csv").read_bytes().decode()
    for n in range(3):
        filled = filled.replace(
            "," + ",".join(str(n + measure) for measure in range(len(MEASURES))) + ",\r\n", ",,,,,,,\r\n"
        )
    assert filled == empty


def test_what_was_entered_is_there_again(page, tmp_path):
    page.get_by_role("group", name="Lifelikeness").get_by_text("7", exact=True).click()
    page.get_by_label("Comment").fill('=9 out of 10, "good"\n5')
    page.keyboard.press("Enter")
    page.keyboard.type("3")
    page.get_by_role("button", name="Next", exact=True).click()
    page.get_by_role("group", name="Satisfaction").get_by_role("radio", name="0").press("Space")
    page.reload()
    assert page.get_by_role("heading", name="Item 2 of 3").is_visible()
    assert page.get_by_role("group", name="Satisfaction").get_by_role("radio", name="0").is_checked()
    page.get_by_role("button", name="Back").click()
    assert page.get_by_role("group", name="Lifelikeness").get_by_role("radio", name="7").is_checked()
    # A digit in a comment is a digit, and rates nothing.
    assert page.get_by_label("Comment").input_value() == '=9 out of 10, "good"\n5\n3'
    assert page.locator("input:checked").count() == 1
    found = download(page, tmp_path / "rater-1.csv")
    assert [dict(rating.values) for rating in found.ratings] == [{"lifelikeness": 7}, {"satisfaction": 0}]
    assert found.ratings[0].comment == '=9 out of 10, "good"\n5\n3'
    assert page.get_by_text("3 of 3 items are not rated yet").is_visible()


def test_the_next_unrated_item_is_found(page):
    for _ in range(2):
        page.get_by_role("button", name="Next", exact=True).click()
    page.keyboard.type("1" * len(MEASURES))
    assert page.get_by_text("1 of 3 rated").is_visible()
    page.get_by_role("button", name="To the next unrated").click()
    assert page.get_by_role("heading", name="Item 1 of 3").is_visible()
    assert page.evaluate("document.activeElement.name") == next(iter(MEASURES))


def test_texts_are_text_and_never_html(page):
    page.get_by_role("button", name="Next", exact=True).click()
    assert page.locator("#reply").inner_text() == REPLIES[1]
    assert page.locator("#dialogue li").all_inner_texts()[0].endswith("I feel blue & want <i>ships</i>.")
    assert page.locator("img, #reply *, i").count() == 0


def test_every_control_has_a_name_and_every_scale_its_measure(page):
    for measure, meaning in MEASURES.items():
        label = measure.replace("_", " ").capitalize()
        scale = page.get_by_role("group", name=f"{label}: {meaning}")
        assert scale.get_by_role("radio").count() == 10
    unnamed = page.evaluate(
        """[...document.querySelectorAll('button, input, select, textarea, progress')].filter(e =>
          !(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length)).length"""
    )
    assert unnamed == 0


def test_on_a_phone_nothing_is_wider_than_the_screen_and_a_thumb_hits_one_digit(browser, address):
    page = browser.new_context(viewport={"width": 360, "height": 640}, is_mobile=True, has_touch=True).new_page()
    page.goto(address)
    for n in range(3):
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.get_by_role("group", name="Informativeness").get_by_text("8", exact=True).tap()
        if n < 2:
            page.get_by_role("button", name="Next", exact=True).tap()
    sizes = page.evaluate("[...document.querySelectorAll('.scale label')].map(e => [e.offsetWidth, e.offsetHeight])")
    assert min(min(size) for size in sizes) >= 40
    page.context.close()


def test_a_browser_that_keeps_nothing_says_so(browser, address):
    page = browser.new_context().new_page()
    page.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('blocked'); } })")
    page.goto(address)
    assert "download the ratings before you close" in page.get_by_role("alert").inner_text()
    page.locator("main").focus()
    page.keyboard.press("4")
    assert page.locator("input:checked").count() == 1
    page.context.close()
