"""How a dialogue becomes a chat prompt: the judges' rubrics and questions, and what a policy is asked.

A judge's prompt is `[rubric][dialogue so far][response]` in that order, and a response is written
exactly as it will stand in the next turn's dialogue. So consecutive turns of one dialogue share all but
their last lines, and an engine with a prefix cache reads each dialogue once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Part of every score row. Raise it when a sentence below changes: scores under two versions do not mix.
PROMPT_VERSION = "1"

SPEAKERS = {"seeker": "Seeker", "recommender": "Recommender"}

# What a policy is told first, in training and whenever it answers.
POLICY_SYSTEM = "You recommend films. Answer what the seeker feels, and name films that suit."
# A chat begins with the user; where the recommender spoke first, this stands before it.
SEEKER_JOINS = "(joins)"


_JUDGE = (
    "You are a strict evaluator of conversations about movies. Read the dialogue and rate only the recommender's last "
    "message, on each aspect from 0 (not at all) to 9 (outstanding):"
)
_ANNOTATOR = (
    "You read feelings in conversations about movies. Read the dialogue and say of its last message only, whoever "
    "wrote it, how surely each feeling is in it, from 0 (certainly not) to 9 (certainly). Most have one or two:"
)


@dataclass(frozen=True)
class Rubric:
    """A named set of aspects, in the order a judge answers them."""

    name: str
    aspects: Mapping[str, str]
    task: str = _JUDGE
    """What the judge is told to do; the aspects follow."""


RUBRICS: dict[str, Rubric] = {
    "ecr-ma": Rubric(
        "ecr-ma",
        {
            "empathy": "notices what the seeker feels and answers that feeling",
            "informativeness": "tells the seeker something true and useful about films",
            "recommendation": "suggests films that suit what the seeker asked for; 0 if it suggests nothing",
            "engagement": "keeps the conversation alive and pleasant to continue",
        },
    ),
    "ecr": Rubric(
        "ecr",
        {
            "emotional_intensity": "how strongly and deeply it expresses emotion",
            "emotional_persuasiveness": "how well it reaches the seeker's feelings to win them for the film",
            "logical_persuasiveness": "how well it convinces by reasons that hang together",
            "informativeness": "how much relevant, useful information it gives",
            "lifelikeness": "how vivid, engaging and human it sounds",
        },
    ),
}

_PAIR = (
    "You are a strict and impartial evaluator of conversations about movies. Read the dialogue and the two answers "
    "that the recommender might give next. On each aspect, say which is better, from 0 (A by far) to 9 (B by far):"
)

# The nine emotions of the ECR paper, as an LLM is asked for them.
EMOTION_RUBRIC = Rubric(
    "emotions",
    {
        "like": "likes or loves a film, a person or an idea",
        "curious": "asks, wonders, or wants to know or to see something",
        "happy": "joy, amusement, excitement or relief",
        "grateful": "thanks somebody",
        "negative": "sadness, anger, fear, dislike, disappointment or boredom",
        "neutral": "says something without any feeling",
        "nostalgia": "remembers the past with warmth or longing",
        "agreement": "agrees, or approves of what was said",
        "surprise": "did not expect something, or just understood it",
    },
    _ANNOTATOR,
)


def rubric_text(rubric: Rubric, answer: str = "digits") -> str:
    """The instructions of a judge.

    Args:
        rubric: what to rate.
        answer: `digits` asks for one digit an aspect, `json` for an object with the aspects as keys.
    """
    lines = [rubric.task]
    lines += [f"{n}. {name}: {meaning}" for n, (name, meaning) in enumerate(rubric.aspects.items(), start=1)]
    if answer == "digits":
        lines.append(f"Answer with {len(rubric.aspects)} digits in this order, without spaces, and nothing else.")
    elif answer == "json":
        keys = ", ".join(f'"{name}"' for name in rubric.aspects)
        lines.append(f"Answer with one JSON object that has the keys {keys} and whole numbers from 0 to 9.")
    else:
        raise ValueError(f"answer {answer!r} is neither 'digits' nor 'json'")
    return "\n".join(lines)


def dialogue_text(messages: Sequence[Mapping[str, str]]) -> str:
    """Messages (`role`, `text`) as lines `Speaker: text`, one a message."""
    return "\n".join(f"{SPEAKERS[m['role']]}: {' '.join(m['text'].split())}" for m in messages)


def judge_question(context: Sequence[Mapping[str, str]], response: str) -> str:
    """What a judge is shown of one turn: the dialogue before it and, as its last line, the response."""
    return last_message_question([*context, {"role": "recommender", "text": response}])


def last_message_question(messages: Sequence[Mapping[str, str]]) -> str:
    """What somebody is shown who rates a dialogue's last message."""
    return f"Dialogue:\n{dialogue_text(messages)}\n\nRatings of the last message:"


def pair_rubric(rubric: Rubric) -> Rubric:
    """The same aspects, asked for of two answers at once."""
    return Rubric(f"{rubric.name}-pairs", rubric.aspects, _PAIR)


def pair_question(context: Sequence[Mapping[str, str]], first: str, second: str) -> str:
    """What a judge is shown of two answers to one dialogue."""
    answers = [" ".join(text.split()) for text in (first, second)]
    return f"Dialogue:\n{dialogue_text(context)}\n\nAnswer A: {answers[0]}\nAnswer B: {answers[1]}\n\nComparison:"


def judge_messages(
    rubric: Rubric, question: str, *, answer: str = "digits", system_role: bool = True
) -> list[dict[str, str]]:
    """The chat messages that put a `judge_question` to a judge.

    `system_role=False` folds the rubric into the user's message, for chat templates that refuse a
    system role (Mistral-7B-Instruct v0.1 and v0.2, Mixtral-8x7B-Instruct).
    """
    instructions = rubric_text(rubric, answer)
    if system_role:
        return [{"role": "system", "content": instructions}, {"role": "user", "content": question}]
    return [{"role": "user", "content": f"{instructions}\n\n{question}"}]


@dataclass(frozen=True)
class Grounding:
    """What a reply is to be made of."""

    film: str
    emotions: tuple[str, ...] = ()
    """What the seeker feels."""
    facts: tuple[str, ...] = ()
    review: str = ""
    """A sentence of somebody who saw the film."""


def policy_system(grounding: Grounding | None = None) -> str:
    """What a policy is told first; with a grounding, what to recommend and what to say of it."""
    if grounding is None:
        return POLICY_SYSTEM
    lines = [POLICY_SYSTEM, f"Film: {grounding.film}"]
    if grounding.emotions:
        lines.append(f"Feelings: {', '.join(grounding.emotions)}")
    if grounding.facts:
        lines.append(f"Knowledge: {'; '.join(grounding.facts)}")
    if grounding.review:
        lines.append(f"Somebody who saw it: {grounding.review}")
    return "\n".join(lines)


def policy_messages(
    context: Sequence[Mapping[str, str]], *, grounding: Grounding | None = None, system_role: bool = True
) -> list[dict[str, str]]:
    """A dialogue (`role` seeker or recommender, `text`; speakers in turn) as the chat that a policy continues.

    `system_role=False` puts the instructions before the seeker's first message, for templates that refuse the role.
    """
    system = policy_system(grounding)
    chat = [{"role": "user" if m["role"] == "seeker" else "assistant", "content": m["text"]} for m in context]
    if not chat or chat[0]["role"] == "assistant":
        chat.insert(0, {"role": "user", "content": SEEKER_JOINS})
    if system_role:
        return [{"role": "system", "content": system}, *chat]
    return [{"role": "user", "content": f"{system}\n\n{chat[0]['content']}"}, *chat[1:]]


# How an emotional answer about a film may begin.
FIRST_SENTENCES = (
    "You should see {movie}.",
    "Have you seen {movie}?",
    "I would recommend {movie}.",
    "{movie} may be just right for you.",
    "How about {movie}?",
    "My suggestion is {movie}.",
)
REVIEW_SYSTEM = (
    "You recommend films. Go on from the first sentence and tell, in the first person and with feeling, why the film "
    "moves you. Use its name, the related entities and the knowledge."
)


def review_messages(
    movie: str, entities: Sequence[str], facts: Sequence[object], first_sentence: str, *, system_role: bool = True
) -> list[dict[str, str]]:
    """The chat that asks for an emotional text about a film, in the ECR paper's form (RecSys 2024)."""
    question = "\n".join(
        [
            f"Movie Name: {movie}",
            f"Related Entities: {', '.join(entities) or 'none'}",
            f"Related Knowledge from KG: {'; '.join(map(str, facts)) or 'none'}",
            f"First Sentence: {first_sentence}",
        ]
    )
    if system_role:
        return [{"role": "system", "content": REVIEW_SYSTEM}, {"role": "user", "content": question}]
    return [{"role": "user", "content": f"{REVIEW_SYSTEM}\n\n{question}"}]


def accepts_system_role(tokenizer: object) -> bool:
    """Whether a tokenizer's chat template takes a system message (and does not drop it silently)."""
    probe = [{"role": "system", "content": "probe-sentence"}, {"role": "user", "content": "hello"}]
    try:
        rendered = tokenizer.apply_chat_template(probe, tokenize=False, add_generation_prompt=True)
    except Exception as error:
        # Templates refuse by raise_exception(), which jinja reports as its own TemplateError.
        if type(error).__name__ in {"TemplateError", "UndefinedError"}:
            return False
        raise
    return "probe-sentence" in rendered
