"""Talks: a user and a system take turns until the hidden film is recommended, or the user has had enough.

`converse` is one talk, in this process. `run_episodes` is many, on Ray actors that hold a system each; every talk is
written as soon as it has ended, so that whoever is killed loses the talks under way and no others. A talk in which
somebody does not answer keeps its row, with the reason and without a result, and is tried again by the next run.
"""

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ecr_ray import progress, storage
from ecr_ray.evaluation.simulation import users
from ecr_ray.evaluation.simulation.calls import NoAnswer
from ecr_ray.evaluation.simulation.leaking import Watch
from ecr_ray.evaluation.simulation.partners import Partner
from ecr_ray.evaluation.simulation.tasks import SimulationError, Task
from ecr_ray.evaluation.simulation.users import Discreet, Message, UserSpec
from ecr_ray.recommender.catalogue import Catalogue
from ecr_ray.records import check_table

logger = logging.getLogger(__name__)
OK, ERROR, LOST = "ok", "error", "actor_lost"
TURNS = 8
_SAID = pa.struct([("role", pa.string()), ("text", pa.string()), ("film_ids", pa.list_(pa.string()))])
EPISODES = pa.schema(
    [
        ("system", pa.string()),
        ("task_id", pa.string()),
        ("target", pa.string()),
        # Whether the target was recommended; null unless the status is ok.
        ("success", pa.bool_()),
        # Whether a reply named it, until then.
        ("success_in_reply", pa.bool_()),
        # Of the system.
        ("turns", pa.int32()),
        # The first one whose reply named the target; null where none did.
        ("turn_named", pa.int32()),
        ("messages", pa.list_(_SAID)),
        ("leaks_stopped", pa.int32()),
        ("status", pa.string()),
        ("reason", pa.string()),
    ]
)


@dataclass(frozen=True)
class Episode:
    """One talk, and how it ended."""

    success: bool | None
    success_in_reply: bool | None
    turns: int
    turn_named: int | None
    messages: tuple[Message, ...]
    leaks_stopped: int
    status: str = OK
    reason: str = ""


def converse(user: Discreet, partner: Partner, target: str, watch: Watch, turns: int = TURNS) -> Episode:
    """One talk. It ends with the user's yes when the target is recommended, or after so many replies.

    Args:
        target: id of the film that the user looks for.
        watch: reads whether a reply names it.
    """
    said: list[Message] = []
    taken, named = 0, None
    try:
        while taken < turns:
            said.append(Message("seeker", user.speak(said)))
            turn = partner.reply(said)
            taken += 1
            said.append(Message("recommender", turn.text, turn.film_ids))
            if named is None and watch.names(turn.text, target):
                named = taken
            if target in turn.film_ids:
                said.append(Message("seeker", user.speak(said)))
                return Episode(True, named is not None, taken, named, tuple(said), user.leaks_stopped)
    except NoAnswer as failure:
        who = "the system" if said and said[-1].role == "seeker" else "the user"
        reason = f"{who}: {failure}"
        return Episode(None, None, taken, named, tuple(said), user.leaks_stopped, failure.status, reason)
    return Episode(False, named is not None, taken, named, tuple(said), user.leaks_stopped)


class Talker:
    """Ray actor: a system, and users who talk with it, one after the other or several at the same time."""

    def __init__(self, system: str, what: Catalogue, make_partner: Callable[[], Partner], spec: UserSpec) -> None:
        self._system, self._catalogue, self._spec = system, what, spec
        self._partner, self._watch = make_partner(), Watch(what)

    def ready(self) -> None:
        """Comes back when the system is there."""

    def talk(self, task: Task, turns: int, seed: int) -> dict[str, Any]:
        """A row of EPISODES; whatever goes wrong becomes a reason."""
        try:
            user = users.make(self._spec, task, self._catalogue, self._watch, seed)
            episode = converse(user, self._partner, task.target, self._watch, turns)
        except Exception as error:
            logger.exception("the talk %s of %s broke off", task.task_id, self._system)
            episode = _broken(ERROR, error)
        return _row(self._system, task, episode)


def run_episodes(
    tasks: Sequence[Task],
    what: Catalogue,
    system: str,
    make_partner: Callable[[], Partner],
    user: UserSpec,
    *,
    turns: int = TURNS,
    actors: int = 2,
    at_once: int = 1,
    output_dir: str,
    seed: int,
) -> pa.Table:
    """All talks of one system, on the connected cluster; those that are in `output_dir` already are not held again.

    Args:
        what: the films that users know.
        system: its name in the rows; several systems may share `output_dir`.
        make_partner: makes the system in an actor, as `functools.partial(Recommending, directory)` does.
        at_once: talks that an actor holds at the same time. Endpoints answer many at once much faster than one after
            the other; what computes in the actor itself gains nothing.
        output_dir: of one set of tasks, users, turns and seed: whoever calls sees to that.

    Returns:
        A row of EPISODES for every task, in their order.

    Raises:
        SimulationError: the system cannot be made.
    """
    forget_failures(output_dir, system)
    done = {row["task_id"] for row in _parts(output_dir, system)}
    left = [task for task in tasks if task.task_id not in done]
    if left:
        import ray

        start = partial(_start, system, ray.put(what), make_partner, user, at_once)
        held = _talks(left, system, start, min(actors, len(left)), at_once, turns, seed)
        for row in progress.bar(f"talks with {system}", held, total=len(tasks), done=len(done)):
            write(output_dir, row)
    return read(output_dir, system, tasks)


def _talks(
    tasks: Sequence[Task], system: str, start: Callable[[], Any], actors: int, at_once: int, turns: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Rows as the talks end. A talk whose actor is lost begins anew; where that happens again and again, it is left.

    Args:
        start: starts an actor.
    """
    import ray
    from ray.exceptions import RayActorError

    waiting, busy = deque(tasks), {}
    crew = [start() for _ in range(actors)]

    def next_task(seat: int) -> None:
        if waiting:
            task = waiting.popleft()
            busy[crew[seat].talk.remote(task, turns, seed)] = (seat, crew[seat], task)

    try:
        try:
            ray.get([actor.ready.remote() for actor in crew])
        except RayActorError as error:
            raise SimulationError(f"the system {system} cannot be made: {_cause(error)}") from error
        for seat in [*range(actors)] * at_once:
            next_task(seat)
        while busy:
            (ended,), _ = ray.wait(list(busy), num_returns=1)
            seat, actor, task = busy.pop(ended)
            try:
                yield ray.get(ended)
            except RayActorError as error:
                yield _row(system, task, _broken(LOST, error))
                # One new actor for all the talks that were lost with it.
                if waiting and crew[seat] is actor:
                    crew[seat] = start()
            next_task(seat)
    finally:
        for actor in crew:
            ray.kill(actor)


def _start(system: str, films: Any, make_partner: Callable[[], Partner], user: UserSpec, at_once: int) -> Any:
    import ray

    how = {"num_cpus": 1, "max_restarts": 3, "max_task_retries": 3, "max_concurrency": at_once}
    return ray.remote(Talker).options(**how).remote(system, films, make_partner, user)


def _cause(error: Exception) -> str:
    """The last line of what an actor died of."""
    return str(error).strip().splitlines()[-1]


def _broken(status: str, error: Exception) -> Episode:
    return Episode(None, None, 0, None, (), 0, status, f"{type(error).__name__}: {error}"[:500])


def _row(system: str, task: Task, episode: Episode) -> dict[str, Any]:
    return {"system": system, "task_id": task.task_id, "target": task.target, **asdict(episode)}


# --- on disk ----------------------------------------------------------------------------------------------


def write(directory: str, row: Mapping[str, Any]) -> None:
    """One talk as one file, whose name is made of system and task: held twice, it is there once."""
    storage.write_parquet(_place(directory, row["system"], row["task_id"]), pa.Table.from_pylist([row], EPISODES))


def read(directory: str, system: str, tasks: Sequence[Task]) -> pa.Table:
    """A system's talks, a row for every task and in their order.

    Raises:
        RuntimeError: a task has neither a talk nor a reason; nothing is ever left out silently.
    """
    found = {row["task_id"]: row for row in _parts(directory, system)}
    missing = [task.task_id for task in tasks if task.task_id not in found]
    if missing:
        raise RuntimeError(f"{directory}: {len(missing)} of {len(tasks)} tasks of {system} have no talk")
    return pa.Table.from_pylist([found[task.task_id] for task in tasks], EPISODES)


def forget_failures(directory: str, system: str) -> None:
    """Drop a system's talks that came to nothing, before they are tried again."""
    for row in _parts(directory, system):
        if row["status"] != OK:
            storage.remove(_place(directory, system, row["task_id"]))


def _place(directory: str, system: str, task_id: str) -> str:
    name = hashlib.sha256(f"{system}\n{task_id}".encode()).hexdigest()[:20]
    return storage.join(directory, f"talk-{name}.parquet")


def _parts(directory: str, system: str) -> Iterator[dict[str, Any]]:
    for file in storage.list_files(directory, (".parquet",)):
        try:
            table = check_table(storage.read_parquet(file), EPISODES, file)
        except (pa.ArrowInvalid, OSError) as error:
            logger.warning("%s is unreadable (%s); its talk is held again", file, error)
            storage.remove(file)
            continue
        yield from table.filter(pc.equal(table["system"], system)).to_pylist()
