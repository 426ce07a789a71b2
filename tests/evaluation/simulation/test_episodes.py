"""Talks: rules with popular films and with the bundled recommender, over HTTP, with who dies, and on disk.

The HTTP endpoint is this test's own stand-in, to be busy on command; the served system itself has its tests in
tests/integration/serving.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pytest

from ecr_ray.cluster import ports
from ecr_ray.evaluation.simulation import calls, episodes, users
from ecr_ray.evaluation.simulation.episodes import converse
from ecr_ray.evaluation.simulation.leaking import Watch
from ecr_ray.evaluation.simulation.partners import Popular, Recommending, Served, Turn, popularity
from ecr_ray.evaluation.simulation.tasks import SimulationError, draw_tasks
from ecr_ray.evaluation.simulation.users import Message, UserSpec
from ecr_ray.recommender import catalogue, place


@pytest.fixture(scope="module")
def what():
    return catalogue.load("sample")


@pytest.fixture(scope="module")
def watch(what):
    return Watch(what)


@pytest.fixture(scope="module")
def tasks(what):
    return draw_tasks(what, 12, 0)


def user(task, what, watch):
    return users.make(UserSpec(), task, what, watch, 0)


def talk(task, what, watch, partner, turns=8):
    return converse(user(task, what, watch), partner, task.target, watch, turns)


def test_a_talk_ends_in_a_yes_when_the_film_is_recommended(what, watch, tasks):
    task = tasks[0]
    order = {item.item_id: len(what) - n for n, item in enumerate(what.items)} | {task.target: 240}
    found = talk(task, what, watch, Popular(what, order, count=3))
    shown = [m.film_ids for m in found.messages if m.role == "recommender"]
    assert found.success and found.success_in_reply and found.turns == found.turn_named == len(shown)
    assert task.target in shown[-1] and not any(task.target in films for films in shown[:-1])
    assert [m.role for m in found.messages] == ["seeker", "recommender"] * len(shown) + ["seeker"]
    assert found.messages[-1].text in users._YES and (found.status, found.leaks_stopped) == ("ok", 0)


def test_popular_films_come_in_their_order_and_none_twice(what, watch, tasks):
    counts = {item.item_id: n for n, item in enumerate(what.items) if item.item_id != tasks[0].target}
    found = talk(tasks[0], what, watch, Popular(what, counts, count=2), turns=5)
    shown = [film for m in found.messages for film in m.film_ids]
    named = {n for m in found.messages if m.role == "seeker" for n in watch.linker.items(m.text)}
    expected = [i.item_id for n, i in reversed(list(enumerate(what.items))) if n not in named or i.item_id in shown]
    assert shown == [film for film in expected if film != tasks[0].target][:10]
    assert found.success is False and found.turns == 5 and found.turn_named is None


def test_popularity_counts_dialogues(what):
    def dialogue(*films):
        messages = [{"role": "seeker", "text": "x", "movie_ids": list(films), "emotions": []}]
        messages.append({"role": "recommender", "text": "y", "movie_ids": [], "emotions": []})
        return {"dialogue_id": str(films), "messages": messages, "mentions": []}

    counts = popularity([dialogue("90011", "90028", "90011"), dialogue("90011", "90861")], what)
    # 90861 is another id of 89999.
    assert {i: n for i, n in counts.items() if n} == {"90011": 2, "90028": 1, "89999": 1}


class Says:
    """Answers with given turns."""

    def __init__(self, *turns):
        self._turns = list(turns)

    def reply(self, messages):
        return self._turns.pop(0)


def test_a_reply_that_names_the_film_is_counted_apart(what, watch, tasks):
    title = what.items[what.numbers()[tasks[0].target]].title
    other = next(i.item_id for i in what.items if i.item_id != tasks[0].target)
    said = [Turn("Hm.", ()), Turn(f"How about {title}?", (other,)), Turn("Or this?", (other,))]
    found = talk(tasks[0], what, watch, Says(*said), turns=3)
    assert (found.success, found.success_in_reply, found.turn_named) == (False, True, 2)
    found = talk(tasks[0], what, watch, Says(Turn("This one.", (tasks[0].target,))))
    assert (found.success, found.success_in_reply, found.turns) == (True, False, 1)


def test_the_bundled_recommender_finds_films_that_popularity_does_not(what, watch, tasks):
    if not (place.of("ecr-tiny-recommender") / "recommender.json").is_file():
        pytest.skip("the recommender is not in the package")
    partner = Recommending(place.of("ecr-tiny-recommender"), count=3)
    found = [talk(task, what, watch, partner) for task in tasks]
    assert found[0] == talk(tasks[0], what, watch, partner)
    successes = sum(e.success for e in found)
    assert successes > sum(talk(task, what, watch, Popular(what, {}, count=3)).success for task in tasks)
    for episode in found:
        shown = [film for m in episode.messages for film in m.film_ids]
        assert len(shown) == len(set(shown)) == 3 * episode.turns
        # It names what it recommends.
        assert episode.success == episode.success_in_reply


# --- over HTTP --------------------------------------------------------------------------------------------


class Endpoint(BaseHTTPRequestHandler):
    """Busy once, then recommends films 90011 and so on, whatever it is asked for."""

    asked: list[dict] = []  # noqa: RUF012
    busy: list[int] = []  # noqa: RUF012
    answer: dict = {}  # noqa: RUF012

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Endpoint.asked.append({"path": self.path, **body})
        status = Endpoint.busy.pop() if Endpoint.busy else 200
        self.send_response(status)
        if status != 200:
            self.send_header("Retry-After", "7")
        self.end_headers()
        self.wfile.write(json.dumps(Endpoint.answer).encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def url(request, monkeypatch):
    Endpoint.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    request.addfinalizer(server.shutdown)
    return f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def waits(monkeypatch):
    """Seconds that were waited for; nobody waits here."""
    found = []
    monkeypatch.setattr(calls.time, "sleep", found.append)
    return found


def test_a_served_system_is_asked_as_its_api_wants_and_again_when_it_is_busy(url, waits):
    Endpoint.answer = {"reply": "Try it.", "recommendations": [{"id": "90011"}, {"id": "90028"}]}
    Endpoint.busy = [503, 429]
    said = [Message("seeker", "Hi."), Message("recommender", "", ("90045",)), Message("seeker", "No.")]
    assert Served(url, count=1, seed=3).reply(said) == Turn("Try it.", ("90011",))
    assert waits == [7.0, 7.0] and len(Endpoint.asked) == 3
    assert Endpoint.asked[-1] == {
        "path": "/v1/recommend",
        "messages": [
            {"role": "user", "content": "Hi."},
            {"role": "assistant", "content": "…"},
            {"role": "user", "content": "No."},
        ],
        "k": 1,
        "exclude": ["90045"],
        "seed": 3,
    }
    from ecr_ray.serving.schemas import RecommendRequest

    RecommendRequest.model_validate({k: v for k, v in Endpoint.asked[-1].items() if k != "path"})


def test_a_served_system_that_answers_something_else_has_not_answered(url, waits, what, watch, tasks):
    Endpoint.answer = {"detail": "?"}
    found = talk(tasks[0], what, watch, Served(url))
    assert (found.status, found.success, found.turns) == ("partner_body", None, 0)
    assert found.reason.startswith("the system: not an answer") and len(found.messages) == 1


def test_a_system_that_has_gone_is_recorded_with_what_was_said(waits, what, watch, tasks):
    (port,) = ports.find_free(1)
    url = f"http://127.0.0.1:{port}"
    found = talk(tasks[0], what, watch, Served(url))
    assert (found.status, found.success, found.success_in_reply) == ("http_unreachable", None, None)
    assert found.reason.startswith("the system: ConnectError") and len(found.messages) == 1
    assert len(waits) == calls.TRIES - 1
    silent = users.make(UserSpec(f"{url}/v1", "m"), tasks[0], what, watch, 0)
    found = converse(silent, Popular(what, {}), tasks[0].target, watch)
    assert (found.status, found.messages) == ("http_unreachable", ()) and found.reason.startswith("the user: ")


# --- in an actor, and on disk -----------------------------------------------------------------------------


class Broken:
    """A system with a fault."""

    def reply(self, messages):
        raise ZeroDivisionError("one over nothing")


def test_a_fault_in_a_system_becomes_the_reason_of_a_row(what, tasks):
    row = episodes.Talker("ours", what, Broken, UserSpec()).talk(tasks[0], 8, 0)
    assert (row["status"], row["reason"], row["success"]) == ("error", "ZeroDivisionError: one over nothing", None)
    assert pa.Table.from_pylist([row], episodes.EPISODES).num_rows == 1


def rows(what, tasks, system="popular"):
    talker = episodes.Talker(system, what, lambda: Popular(what, {}, count=3), UserSpec())
    return [talker.talk(task, 2, 0) for task in tasks]


def test_talks_are_written_once_and_read_in_the_order_of_the_tasks(tmp_path, what, tasks):
    held = rows(what, tasks[:3])
    for row in (*reversed(held), *held):
        episodes.write(str(tmp_path), row)
    episodes.write(str(tmp_path), rows(what, tasks[:1], "other")[0])
    assert len(list(tmp_path.iterdir())) == 4
    table = episodes.read(str(tmp_path), "popular", tasks[:3])
    assert table.schema == episodes.EPISODES
    assert table["task_id"].to_pylist() == [task.task_id for task in tasks[:3]]
    again = table.to_pylist()[1]
    assert again["target"] == tasks[1].target and again["messages"][0]["text"] == held[1]["messages"][0]["text"]
    with pytest.raises(RuntimeError, match="1 of 4 tasks of popular have no talk"):
        episodes.read(str(tmp_path), "popular", tasks[:4])


def test_a_finished_run_asks_for_no_cluster(tmp_path, what, tasks):
    for row in rows(what, tasks[:3]):
        episodes.write(str(tmp_path), row)
    table = episodes.run_episodes(
        tasks[:3], what, "popular", Broken, UserSpec(), turns=2, output_dir=str(tmp_path), seed=0
    )
    assert table["status"].to_pylist() == ["ok"] * 3


def test_talks_that_came_to_nothing_are_forgotten_and_damaged_files_too(tmp_path, what, tasks, caplog):
    for row in rows(what, tasks[:2]):
        episodes.write(str(tmp_path), row)
    failed = episodes.Talker("popular", what, Broken, UserSpec()).talk(tasks[2], 2, 0)
    other = episodes.Talker("other", what, Broken, UserSpec()).talk(tasks[2], 2, 0)
    episodes.write(str(tmp_path), failed)
    episodes.write(str(tmp_path), other)
    episodes.forget_failures(str(tmp_path), "popular")
    assert len(list(tmp_path.iterdir())) == 3
    victim = next(p for p in tmp_path.iterdir() if b"other" not in p.read_bytes())
    victim.write_bytes(victim.read_bytes()[:80])
    with pytest.raises(RuntimeError, match="1 of 2 tasks"):
        episodes.read(str(tmp_path), "popular", tasks[:2])
    assert "unreadable" in caplog.text and not victim.exists()


def test_a_missing_key_of_a_served_system_is_said_by_name(monkeypatch):
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(SimulationError, match="NO_KEY is empty"):
        Served("http://x", "NO_KEY")
