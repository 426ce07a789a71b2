"""The page in a real browser: a conversation, a recommendation, a thumb, an error; by keyboard, and on a phone."""

import json
import os
import shutil

import pytest

from tests.integration.serving.conftest import wait_for

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FIRST_WORDS_MS = 30_000


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
def page(browser, endpoint):
    """Open, with the key given as a visitor would give it; whatever the page complains of fails the test."""
    context = browser.new_context(viewport={"width": 900, "height": 900})
    found, complaints = context.new_page(), []
    found.on("pageerror", lambda error: complaints.append(str(error)))
    found.on("console", lambda said: complaints.append(said.text) if "Content Security" in said.text else None)
    found.on("request", lambda asked: None if asked.url.startswith(endpoint.url) else complaints.append(asked.url))
    found.goto(endpoint.url)
    found.get_by_label("Key", exact=True).fill(endpoint.key)
    found.keyboard.press("Enter")
    found.get_by_role("dialog").wait_for(state="hidden")
    yield found
    context.close()
    assert complaints == []


def say(page, text):
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")
    page.locator("#send").wait_for(state="visible", timeout=FIRST_WORDS_MS)


def test_a_conversation_a_recommendation_and_a_thumb(page, endpoint):
    say(page, "I loved John Wick (2014), thank you! Another like it?")
    cards = page.get_by_role("list", name="Recommended films").get_by_role("listitem")
    assert cards.count() == 4 and "John Wick (2014)" in cards.first.inner_text()
    assert page.get_by_text("Heard: ").count() == 1
    answer = page.locator(".assistant .said")
    assert answer.inner_text().strip() and "ecr-tiny-ppo@" in page.locator(".assistant > .about").inner_text()
    title = cards.first.get_by_role("heading").inner_text()
    thumb = page.get_by_role("button", name=f"I like {title}")
    thumb.click()
    cards.first.get_by_text("noted").wait_for()
    assert thumb.get_attribute("aria-pressed") == "true"
    stored = [json.loads(line) for file in (endpoint.output / "feedback").iterdir() for line in file.open()]
    assert any(row["titles"].get(row["film"]) == title and row["liked"] for row in stored)
    say(page, "Yes! Something older?")
    assert page.locator(".assistant").count() == 2
    shown = page.locator(".card h3").all_inner_texts()
    assert len(shown) == len(set(shown)) == 8
    if where := os.environ.get("ECR_SCREENSHOT"):
        page.screenshot(path=where)


def test_another_adapter_is_chosen(page):
    choice = page.get_by_label("Answered by")
    choice.focus()
    wait_for("the list of adapters", lambda: choice.locator("option").count() > 2, 10)
    choice.select_option("ecr-tiny-chat")
    say(page, "Something funny?")
    assert page.locator(".assistant > .about").inner_text().startswith("ecr-tiny-chat")


def test_what_goes_wrong_is_said_and_can_be_tried_again(page):
    page.route("**/v1/recommend", lambda route: route.abort())
    say(page, "Something funny?")
    assert "That did not work" in page.get_by_role("alert").inner_text()
    page.unroute("**/v1/recommend")
    page.get_by_role("button", name="Try again").click()
    page.locator(".assistant > .about").wait_for(timeout=FIRST_WORDS_MS)
    assert page.get_by_role("alert").is_hidden() and page.locator(".user").count() == 1


def test_a_refusal_is_the_endpoints_own_sentence(page):
    page.evaluate("document.getElementById('say').maxLength = 10000")
    say(page, "x" * 5000)
    assert "a message may have at most 4,000 characters here" in page.get_by_role("alert").inner_text()


def test_a_wrong_key_is_asked_for_again(browser, endpoint):
    page = browser.new_context().new_page()
    page.goto(endpoint.url)
    dialog = page.get_by_role("dialog")
    page.get_by_label("Key", exact=True).fill("ecr_wrong")
    page.keyboard.press("Enter")
    wait_for("the question to come back", lambda: dialog.is_visible() and not page.locator("#key").input_value(), 10)
    page.get_by_label("Key", exact=True).fill(endpoint.key)
    page.keyboard.press("Enter")
    dialog.wait_for(state="hidden")
    page.context.close()


def test_names_of_films_and_what_people_write_are_text_and_never_html(page):
    say(page, "<img src=x onerror=alert(1)> I like <b>Alien (1979)</b>")
    assert page.locator(".user .said").inner_text().startswith("<img src=x") and page.locator("img").count() == 0


def test_by_keyboard_alone(page):
    page.get_by_role("button", name="New conversation").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "say"
    page.keyboard.type("A film with ships")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("and pirates?")
    page.keyboard.press("Enter")
    page.locator(".assistant > .about").wait_for(timeout=FIRST_WORDS_MS)
    assert page.locator(".user .said").inner_text() == "A film with ships\nand pirates?"
    assert page.evaluate("document.activeElement.id") == "say"
    assert "Recommended: " in page.locator("#heard").inner_text()


def test_on_a_phone_nothing_is_wider_than_the_screen(browser, endpoint):
    page = browser.new_context(viewport={"width": 360, "height": 640}, is_mobile=True, has_touch=True).new_page()
    page.goto(endpoint.url)
    page.get_by_label("Key", exact=True).fill(endpoint.key)
    page.keyboard.press("Enter")
    page.get_by_role("dialog").wait_for(state="hidden")
    page.get_by_role("button", name="I loved Alien (1979)").tap()
    page.locator(".assistant .card").first.wait_for(timeout=FIRST_WORDS_MS)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    heights = "[...document.querySelectorAll('button')].filter(b => b.offsetParent).map(b => b.offsetHeight)"
    assert min(page.evaluate(heights)) >= 40
    page.context.close()


def test_every_control_has_a_name(page):
    say(page, "Something funny?")
    unnamed = page.evaluate(
        """[...document.querySelectorAll('button, input, select, textarea')].filter(e =>
          !(e.textContent.trim() || e.ariaLabel || e.getAttribute('aria-label') || e.labels?.length)).length"""
    )
    assert unnamed == 0
