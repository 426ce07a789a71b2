"""Simulated users: one that follows rules, one that a language model plays; neither gives its film's title away.

A user is told what may be said of its film and what it likes, never the title. Whatever it says is read before anybody
hears it (see leaking.py): where the title stands in it, it is asked again, and then the rules speak in its place.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

from ecr_ray.data.knowledge import normal
from ecr_ray.evaluation.simulation.calls import NoAnswer, endpoint
from ecr_ray.evaluation.simulation.leaking import Watch
from ecr_ray.evaluation.simulation.tasks import Task, random_of
from ecr_ray.recommender.catalogue import DECADE, Catalogue, Item

# How often a user who gave the title away is asked again.
SECOND_CHANCES = 2
ANSWER_TOKENS = 120
# Of a user who cannot say anything at all: there are films called like every sentence below.
SPEECHLESS = "…"


@dataclass(frozen=True)
class Message:
    """What somebody said."""

    role: str
    """seeker or recommender."""
    text: str
    film_ids: tuple[str, ...] = ()
    """Of a recommender: the films that it recommends with it, beside those that it names."""


class User(Protocol):
    """Somebody who looks for a film."""

    def speak(self, heard: Sequence[Message], attempt: int = 0) -> str:
        """The next thing to say; the last message is the other's, and without any this is the first.

        Args:
            attempt: how often what was said instead was stopped, because it held the title.

        Raises:
            NoAnswer: there is nothing to say.
        """


@dataclass(frozen=True)
class UserSpec:
    """Which users talk: by rules, or as an OpenAI-compatible endpoint plays them."""

    url: str = ""
    """As in http://host:port/v1; empty: rules."""
    model: str = ""
    key_env: str = ""
    """Environment variable that holds the endpoint's key; empty: it has none."""
    temperature: float = 0.7


class Discreet:
    """A user of whom everything is read before it is said."""

    def __init__(self, user: User, rules: "RuleUser", watch: Watch, target: str) -> None:
        self._user, self._rules, self._watch, self._target = user, rules, watch, target
        self.leaks_stopped = 0

    def speak(self, heard: Sequence[Message]) -> str:
        """As `User.speak`; the rules' words where the user's would give the title away, and to say yes."""
        if heard and self._target in heard[-1].film_ids:
            return self._rules.speak(heard)
        for attempt in range(1 + SECOND_CHANCES):
            text = self._user.speak(heard, attempt)
            if not self._watch.leaks(text, self._target):
                return text
            self.leaks_stopped += 1
        return self._rules.speak(heard)


def make(spec: UserSpec, task: Task, catalogue: Catalogue, watch: Watch, seed: int) -> Discreet:
    """A user with a task."""
    rules = RuleUser(task, catalogue, watch, seed)
    user = LlmUser(task, catalogue, spec, seed) if spec.url else rules
    return Discreet(user, rules, watch, task.target)


# --- by rules ---------------------------------------------------------------------------------------------

_FEELINGS = {
    "like": ("I adore going to the movies.", "There is hardly anything that I like more than cinema."),
    "curious": ("I wonder what I have been missing.", "What have I not discovered yet?"),
    "happy": ("What a wonderful day this has been!", "I am in a great mood today."),
    "grateful": ("Thank you so much for taking the time.", "So kind of you to help me."),
    "negative": ("Today was awful and I am exhausted.", "I feel terrible tonight."),
    "neutral": ("Hello.", "Hi there."),
    "nostalgia": ("I miss how movies used to be.", "Lately I think of my childhood a lot."),
    "agreement": ("Yes, I am ready.", "Sure, let us find something."),
    "surprise": ("Wow, I suddenly have a free evening!", "I cannot believe that I have time tonight!"),
}
_LIKES = ("I loved {likes}. What should I watch?", "I never tire of {likes}. Any idea?")
_TELLS = {
    "genre": ("Some {name} would be perfect.", "I am in the mood for {name}."),
    "star": ("I would love to see {name} in it.", "{name} should play a part."),
    "director": ("{name} should have directed it.", "I admire what {name} directs."),
    DECADE: ("Preferably from the {name}.", "Best would be one made in the {name}."),
}
_INDIFFERENT = {
    "genre": ("The genre matters little to me.",),
    "star": ("I do not mind who plays.",),
    "director": ("I do not mind who directed it.",),
    DECADE: ("I do not mind how old it is.",),
}
_LIKED = ("I know and love {title} already.", "{title} is one of my favourites, so not that.")
_OTHER_GENRE = ("{title} is not the kind that I am after.", "{title}? No, another genre, please.")
_MISSING = ("{title} lacks somebody whom I want to see.", "{title}? Other people should be in it.")
_SEEN = ("I have seen {title} before.", "{title}? I watched it already.")
_NO = ("No, not that.", "Nothing for me, sorry.")
_YES = ("Yes, that is the one! Thank you.", "Perfect, exactly what I wanted!")
_GO_ON = ("What else is there?", "Any other idea?")
# What a question is about, by its words.
_TOPICS = {
    "genre": {"genre", "genres", "kind", "kinds", "type", "sort", "style"},
    "star": {"actor", "actors", "actress", "actresses", "star", "stars", "cast", "starring"},
    "director": {"director", "directors", "directed", "filmmaker"},
    DECADE: {"year", "years", "decade", "old", "older", "new", "newer", "recent", "classic", "era"},
    "feeling": {"mood", "feel", "feeling", "feelings"},
}


class RuleUser:
    """Says what it likes, then a fact of its film at a time: what it is asked about, or why a film is not the one.

    What it has told already is read off the talk, so that it says the same after the same talk and may step in for
    another user anywhere.
    """

    def __init__(self, task: Task, catalogue: Catalogue, watch: Watch, seed: int) -> None:
        self._task, self._watch, self._seed = task, watch, seed
        self._numbers, self._items = catalogue.numbers(), catalogue.items
        self._target = self._items[self._numbers[task.target]]

    def speak(self, heard: Sequence[Message], attempt: int = 0) -> str:
        """As `User.speak`."""
        rng = random_of(self._seed, self._task.task_id, len(heard), attempt)
        for parts in self._ways(heard):
            ways = [" ".join(said) for said in product(*parts)]
            for n in rng.permutation(len(ways)):
                if ways[n] and not self._watch.leaks(ways[n], self._task.target):
                    return ways[n]
        return SPEECHLESS

    def _ways(self, heard: Sequence[Message]) -> Iterator[list[Sequence[str]]]:
        """What may be said, the best first: sentences one after the other, each in several wordings."""
        if not heard:
            likes = [line.format(likes=" and ".join(self._task.likes)) for line in _LIKES]
            yield [_FEELINGS[self._task.feeling], likes]
            yield [likes]
        elif self._task.target in heard[-1].film_ids:
            yield [_YES]
        else:
            told, films = self._told(heard), heard[-1].film_ids
            if films:
                yield [self._refusal(films[0]), told]
                yield [_NO, told]
            yield [told]
        yield [_GO_ON]

    def _told(self, heard: Sequence[Message]) -> Sequence[str]:
        """A fact that was not told yet: of what was asked about, else the next one; when all are told, one again."""
        topic = _topic(self._watch.without_films(heard[-1].text))
        if topic == "feeling":
            return _FEELINGS[self._task.feeling]
        mine = f" {normal(' '.join(message.text for message in heard if message.role == 'seeker'))} "
        facts = [fact for fact in self._task.facts if topic in (None, fact[0])]
        if not facts:
            return _INDIFFERENT[topic]
        new = [(relation, name) for relation, name in facts if f" {normal(name)} " not in mine]
        relation, name = new[0] if new else facts[len(heard) // 2 % len(facts)]
        return [line.format(name=name) for line in _TELLS[relation]]

    def _refusal(self, film_id: str) -> Sequence[str]:
        """Why the first of the recommended films is not the one."""
        number = self._numbers.get(film_id)
        if number is None:
            return _NO
        film = self._items[number]
        lines = _LIKED if film.title in self._task.likes else self._fault(film)
        return [line.format(title=film.title) for line in lines]

    def _fault(self, film: Item) -> Sequence[str]:
        genres, wanted = _names(film, "genre"), _names(self._target, "genre")
        if genres and wanted and not genres & wanted:
            return _OTHER_GENRE
        people = _names(self._target, "star", "director")
        return _MISSING if people and not people & _names(film, "star", "director") else _SEEN


def _names(film: Item, *relations: str) -> set[str]:
    return {normal(fact.name) for fact in film.facts if fact.relation in relations}


def _topic(text: str) -> str | None:
    """What the last question in a text is about."""
    question = text.rpartition("?")[0]
    words = normal(question.replace("!", ".").rpartition(".")[2]).split()
    return next((topic for topic, known in _TOPICS.items() if known.intersection(words)), None)


# --- played by a language model ---------------------------------------------------------------------------

_ROLE = """You are a person who chats with a film recommender, to find a film to watch. You feel: {feeling}.
You love: {likes}.
The film that would make you happiest, whose name you do not know: {wish}.
Say what you feel and want in your own words, a little at a time. Answer what you are asked. Say why a film does not \
suit you. Never name a film, except those that you love and those that were recommended to you. One or two sentences."""
_BEGIN = "(You speak first.)"
_REFUSED = "\n\n(None of these is what you are looking for: {films}.)"
_AGAIN = "\n\n(Speak without naming the film that you are looking for; you do not know its name.)"


class LlmUser:
    """Plays a user by an OpenAI-compatible endpoint, which is never told the title."""

    def __init__(self, task: Task, catalogue: Catalogue, spec: UserSpec, seed: int) -> None:
        """Write down who it is.

        Raises:
            SimulationError: the endpoint's key is not there.
        """
        self._spec, self._seed, self._task = spec, seed, task
        self._titles = {item.item_id: item.title for item in catalogue.items}
        self._endpoint = endpoint(spec.url, spec.key_env)
        wish = ", ".join(f"its {relation} is {name}" for relation, name in task.facts)
        self._role = _ROLE.format(feeling=task.feeling, likes=" and ".join(task.likes), wish=wish)

    def speak(self, heard: Sequence[Message], attempt: int = 0) -> str:
        """As `User.speak`."""
        rng = random_of(self._seed, self._task.task_id, len(heard), attempt)
        body = {
            "model": self._spec.model,
            "messages": self._chat(heard, attempt),
            "max_tokens": ANSWER_TOKENS,
            "temperature": self._spec.temperature,
            "seed": int(rng.integers(2**31)),
        }
        return _said(self._endpoint.post("chat/completions", body))

    def _chat(self, heard: Sequence[Message], attempt: int) -> list[dict[str, str]]:
        """The talk with the recommender as the one who asks, which to a model the user is."""
        chat = [{"role": "system", "content": self._role}, {"role": "user", "content": _BEGIN}]
        for message in heard:
            if message.role == "seeker":
                chat.append({"role": "assistant", "content": message.text})
                continue
            films = ", ".join(self._titles[i] for i in message.film_ids if i in self._titles)
            chat.append({"role": "user", "content": message.text + (_REFUSED.format(films=films) if films else "")})
        if attempt:
            chat[-1]["content"] += _AGAIN
        return chat


def _said(answer: Any) -> str:
    """The text of a chat completion.

    Raises:
        NoAnswer: it has none.
    """
    try:
        text = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise NoAnswer("user_body", f"not a chat completion: {str(answer)[:200]}") from error
    if not isinstance(text, str) or not text.strip():
        raise NoAnswer("user_silent", "the completion has no text")
    return text.strip()
