"""Simulated users: what they say, and what they never say.

The language model is this test's own stand-in: none that would play a user can be had here, and only so does it give
titles away on command.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecr_ray.data.knowledge import Fact, Film
from ecr_ray.evaluation.simulation import calls, users
from ecr_ray.evaluation.simulation.calls import NoAnswer
from ecr_ray.evaluation.simulation.leaking import Watch
from ecr_ray.evaluation.simulation.tasks import SimulationError, Task, draw_tasks
from ecr_ray.evaluation.simulation.users import Message, UserSpec
from ecr_ray.recommender import catalogue
from ecr_ray.records import EMOTIONS

QUESTIONS = (
    "What genre do you like?",
    "Any favourite actors?",
    "Who should have directed it?",
    "Old or new?",
    "How do you feel?",
    "Tell me more.",
)


@pytest.fixture(scope="module")
def what():
    return catalogue.load("sample")


@pytest.fixture(scope="module")
def watch(what):
    return Watch(what)


@pytest.fixture(scope="module")
def task(what):
    """Whoever looks for Jurassic Park."""
    return next(t for t in draw_tasks(what, 1000, 0) if t.target == "91643")


def test_the_film_of_these_tests_is_the_one_we_think(what, task):
    item = what.items[what.numbers()[task.target]]
    assert item.title == "Jurassic Park (1993)" and ("star", "Sam Neill") in task.facts


def rules(what, watch, task, seed=0):
    return users.RuleUser(task, what, watch, seed)


def reply(text, *films):
    return Message("recommender", text, films)


def test_it_begins_with_what_it_likes(what, watch, task):
    said = rules(what, watch, task).speak([])
    assert all(title in said for title in task.likes)
    assert not any(name in said for _, name in task.facts)
    feelings = {
        users.RuleUser(Task("t", "91643", task.likes, task.facts, f), what, watch, 0).speak([]) for f in EMOTIONS
    }
    assert len(feelings) == len(EMOTIONS)


@pytest.mark.parametrize(
    ("question", "answers"),
    [
        ("What genre do you like?", ["sci-fi", "adventure"]),
        ("Is there an actor you like?", ["Sam Neill", "Laura Dern"]),
        ("Who is your favourite director?", ["Steven Spielberg"]),
        ("Do you prefer something old? ", ["1990s"]),
    ],
)
def test_it_answers_what_it_is_asked_a_fact_at_a_time(what, watch, task, question, answers):
    user, heard = rules(what, watch, task), [Message("seeker", "Hi.")]
    for answer in answers:
        heard.append(reply(question))
        said = user.speak(heard)
        assert [name for _, name in task.facts if name in said] == [answer]
        heard.append(Message("seeker", said))


def test_it_has_no_wish_where_nothing_is_known(what, watch, task):
    plain = Task(task.task_id, task.target, task.likes, (("genre", "sci-fi"),), "happy")
    said = rules(what, watch, plain).speak([Message("seeker", "Hi."), reply("Which actors do you like?")])
    assert said == "I do not mind who plays."


def test_a_question_within_a_title_is_none(what, watch, task):
    heard = [Message("seeker", "Hi."), reply("How about No Country for Old Men (2007)?", "92102")]
    assert "sci-fi" in rules(what, watch, task).speak(heard)


@pytest.mark.parametrize(
    ("film", "reasons"),
    [
        # One that it likes; no genre in common; a genre, but nobody of the cast or crew; somebody too; and no film.
        ("like", ["already", "favourites"]),
        ("93037", ["not the kind", "another genre"]),
        ("90249", ["lacks somebody", "Other people"]),
        ("91405", ["have seen", "watched it"]),
        ("90000", ["No, not that", "Nothing for me"]),
    ],
)
def test_it_says_why_a_film_is_not_the_one(what, watch, task, film, reasons):
    if film == "like":
        film = next(item.item_id for item in what.items if item.title == task.likes[0])
    said = rules(what, watch, task).speak([Message("seeker", "Hi."), reply("This?", film)])
    assert any(reason in said for reason in reasons) and "sci-fi" in said


def test_it_says_yes_to_its_film_and_repeats_itself_when_all_is_told(what, watch, task):
    user = rules(what, watch, task)
    assert user.speak([Message("seeker", "Hi."), reply("Look!", "91643")]) in users._YES
    everything = Message("seeker", " ".join(name for _, name in task.facts))
    assert any(name in user.speak([everything, reply("Hm.")]) for _, name in task.facts)


def test_the_same_talk_and_seed_give_the_same_words(what, watch, task):
    heard = [Message("seeker", "Hi."), reply("Well?", "93037")]
    said = [rules(what, watch, task, seed).speak(heard) for seed in (0, 0, *range(1, 9))]
    assert said[0] == said[1] and len(set(said)) > 1


def test_rules_never_give_a_film_of_the_catalogue_away(what, watch):
    for task in draw_tasks(what, 1000, 3):
        user, heard = rules(what, watch, task, 3), []
        for n, question in enumerate(QUESTIONS):
            heard.append(Message("seeker", user.speak(heard)))
            films = [what.items[(7 * n + i) % len(what)].item_id for i in range(n % 3)]
            heard.append(reply(question, *(film for film in films if film != task.target)))
        heard += [Message("seeker", user.speak(heard)), reply("Here.", task.target)]
        heard.append(Message("seeker", user.speak(heard)))
        said = [message.text for message in heard if message.role == "seeker"]
        assert not [text for text in said if watch.leaks(text, task.target)]
        assert users.SPEECHLESS not in said


# Words that rules speak: a film may be called like any of them.
SPOKEN = sorted({w for lines in (users._LIKES, users._LIKED, users._SEEN, users._NO, users._YES, users._GO_ON,
                                 users._OTHER_GENRE, users._MISSING, *users._TELLS.values(),
                                 *users._INDIFFERENT.values(), *users._FEELINGS.values())
                 for line in lines for w in line.split() if "{" not in w})  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from(SPOKEN), min_size=1, max_size=3).map(" ".join),
    st.sampled_from(EMOTIONS),
    st.sampled_from(QUESTIONS),
    st.integers(0, 99),
)
def test_rules_never_give_a_film_away_that_is_called_like_their_own_words(name, feeling, question, seed):
    facts = (Fact(name, "genre", "crime"), Fact(name, "star", "Al Pacino"))
    films = [Film("1", name, 1995, facts), Film("2", "Zodiac", 2007, facts[:1]), Film("3", "Frozen", 2013, ())]
    small = catalogue.of_films(films)
    watch = Watch(small)
    task = Task("t", "1", ("Zodiac (2007)",), (("genre", "crime"), ("star", "Al Pacino")), feeling)
    user, hi = rules(small, watch, task, seed), Message("seeker", "Hi.")
    for heard in ([], [hi, reply(question)], [hi, reply("", "2")], [hi, reply("", "3")], [hi, reply("", "1")]):
        said = user.speak(heard)
        assert said and not watch.leaks(said, "1")


# --- played by a language model ---------------------------------------------------------------------------


class Endpoint(BaseHTTPRequestHandler):
    """Says what its name tells it to; remembers what it was asked."""

    asked: list[dict] = []  # noqa: RUF012

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Endpoint.asked.append({"path": self.path, "auth": self.headers.get("Authorization"), **body})
        again = "Speak without naming" in body["messages"][-1]["content"]
        text = {
            "good": f"I want dinosaurs, {len(body['messages'])}.",
            "leaks": "I want Jurasic Park",
            "leaks once": "Dinosaurs, please." if again else "I want jurassic park!",
            "silent": " ",
        }.get(body["model"])
        answer = {"choices": [{"message": {"content": text}}]} if text else {"no": "choices"}
        self.send_response(200 if body["model"] != "gone" else 404)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def url(request):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    request.addfinalizer(server.shutdown)
    return f"http://127.0.0.1:{server.server_port}/v1"


@pytest.fixture
def played(what, watch, task, url, monkeypatch):
    monkeypatch.setenv("TEST_KEY", "secret")
    Endpoint.asked.clear()
    return lambda model: users.make(UserSpec(url, model, "TEST_KEY"), task, what, watch, seed=4)


def test_a_model_plays_the_user_and_is_never_told_the_title(played, task, watch):
    heard = [Message("seeker", "Hi."), reply("This?", "93037"), Message("seeker", "No."), reply("And what genre?")]
    assert played("good").speak(heard) == "I want dinosaurs, 6."
    (asked,) = Endpoint.asked
    assert (asked["path"], asked["auth"]) == ("/v1/chat/completions", "Bearer secret")
    assert [m["role"] for m in asked["messages"]] == ["system", "user", "assistant", "user", "assistant", "user"]
    role = asked["messages"][0]["content"]
    assert all(word in role for word in (*task.likes, *(name for _, name in task.facts), task.feeling))
    assert "None of these is what you are looking for: The Breakfast Club (1985)" in asked["messages"][3]["content"]
    assert not any(watch.leaks(m["content"], task.target) for m in asked["messages"])


def test_no_role_gives_a_film_of_the_catalogue_away(what, watch):
    for task in draw_tasks(what, 1000, 0):
        role = users.LlmUser(task, what, UserSpec("http://x/v1", "m"), 0)._role
        assert not watch.leaks(role, task.target), task


def test_a_title_is_stopped_and_what_is_said_instead_is_heard(played):
    user = played("leaks once")
    assert user.speak([]) == "Dinosaurs, please." and user.leaks_stopped == 1
    first, second = Endpoint.asked
    assert first["seed"] != second["seed"]


def test_who_names_it_again_and_again_is_spoken_for_by_the_rules(played, what, watch, task):
    user = played("leaks")
    heard = [Message("seeker", "Hi."), reply("This?", "93037")]
    assert user.speak(heard) == rules(what, watch, task, 4).speak(heard)
    assert user.leaks_stopped == 3 and len(Endpoint.asked) == 3


def test_its_yes_needs_no_model(played):
    assert played("gone").speak([Message("seeker", "Hi."), reply("Look!", "91643")]) in users._YES


@pytest.mark.parametrize(("model", "status"), [("silent", "user_silent"), ("else", "user_body"), ("gone", "http_404")])
def test_an_answer_without_words_is_no_answer(played, model, status):
    with pytest.raises(NoAnswer) as failure:
        played(model).speak([])
    assert failure.value.status == status


def test_a_missing_key_is_said_by_name(what, watch, task, monkeypatch):
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(SimulationError, match="NO_KEY is empty"):
        users.make(UserSpec("http://x/v1", "m", "NO_KEY"), task, what, watch, 0)


@pytest.mark.parametrize(
    ("header", "seconds"), [("3", 3.0), ("600", 60.0), ("", 0.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0)]
)
def test_how_long_to_wait_is_read(header, seconds):
    assert calls._asked_to_wait(header) == seconds
