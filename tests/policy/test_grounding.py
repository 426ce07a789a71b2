"""What a reply is to be made of, and whether it was."""

from ecr_ray import prompts
from ecr_ray.data import reading, redial
from ecr_ray.data.retrieval import Limits
from ecr_ray.data.titles import Titles
from ecr_ray.policy import grounding, recipes
from ecr_ray.prompts import Grounding

FULL = Grounding("Heat (1995)", ("curious", "nostalgia"), ("Heat's director is Michael Mann",), "I cried.")
CONTEXT = [{"role": "seeker", "text": "Something like Ronin (1998)?"}]


def sample():
    rows = reading.read(reading.find("sample"), max_message_chars=20_000, number_rows=False)
    return [row for row in rows if isinstance(row, reading.Row)]


def test_the_prompt_says_what_the_reply_is_made_of():
    chat = prompts.policy_messages(CONTEXT, grounding=FULL)
    assert chat[0]["content"].split("\n") == [
        prompts.POLICY_SYSTEM,
        "Film: Heat (1995)",
        "Feelings: curious, nostalgia",
        "Knowledge: Heat's director is Michael Mann",
        "Somebody who saw it: I cried.",
    ]
    (folded,) = prompts.policy_messages(CONTEXT, grounding=FULL, system_role=False)
    assert folded["content"].startswith(chat[0]["content"]) and folded["content"].endswith("Ronin (1998)?")
    assert prompts.policy_system(Grounding("Heat")).count("\n") == 1
    assert prompts.policy_messages(CONTEXT)[0]["content"] == prompts.POLICY_SYSTEM


def test_a_reply_is_checked():
    films = Titles(["Heat (1995)", "Ronin (1998)"])
    found = grounding.check("Try HEAT, or Cold (2001), or Ronin (1998)", "Heat (1995)", CONTEXT, films)
    assert found == grounding.Check(names_film=True, invented=1)
    # A title that the seeker made up was not invented by the reply; a part of a word is not the film.
    said = [{"role": "seeker", "text": "I saw Cold (2001)"}]
    assert grounding.check("Cold (2001)? Heated!", "Heat", said, films) == grounding.Check(False, 0)
    assert grounding.check("(2001)", "Heat", [], films).invented == 1


def test_the_film_is_the_one_that_the_turn_names_and_everything_is_the_same_again():
    ground = grounding.load("sample", "sample", Limits(min_count=1), 0)
    turns = [turn for row in sample() for turn in redial.to_turns(row.value)]
    found = {turn["turn_id"]: ground.of_turn(turn) for turn in turns}
    again = grounding.load("sample", "sample", Limits(min_count=1), 0)
    assert found == {turn["turn_id"]: again.of_turn(turn) for turn in turns}
    named = [turn for turn in turns if turn["target_movie_ids"]]
    known = [found[turn["turn_id"]] for turn in named if found[turn["turn_id"]] is not None]
    assert len(known) > 0.9 * len(named)
    assert all(found[turn["turn_id"]] is None for turn in turns if not turn["target_movie_ids"])
    assert all(1 <= len(g.facts) <= 2 for g in known) and sum(bool(g.review) for g in known) > len(known) / 2
    assert sum(bool(g.emotions) for g in known) > len(known) / 2
    for turn in named[:20]:
        grounded = found[turn["turn_id"]]
        # In one dialogue, on purpose, a film has no name: its id stands in the text.
        if grounded is not None and "@" not in turn["response"]:
            assert grounding.names(turn["response"], grounded.film), turn["response"]
    assert all(not g.review for g in map(grounding.load("sample", "none", Limits(), 0).of_turn, named) if g)


def test_feelings_are_those_of_the_seekers_last_message():
    emotions = [{"label": "happy", "prob": 0.4}, {"label": "like", "prob": 0.9}, {"label": "curious", "prob": 0.1}]
    said = [{"role": "seeker", "text": "x", "emotions": emotions}, {"role": "recommender", "text": "y", "emotions": []}]
    assert grounding.feelings(said) == ("like", "happy")
    assert grounding.feelings([*said, {"role": "seeker", "text": "z", "emotions": []}]) == ()
    assert grounding.feelings(CONTEXT) == ()


def test_grounded_answers_are_learnt_one_by_one():
    ground = grounding.load("sample", "sample", Limits(min_count=1), 0)
    rows = sample()[:3]
    how = {"system_role": True, "valid_share": 0.0, "split": "train"}
    found = list(recipes.dialogue_examples(rows, **how, ground=ground.of_turn))
    turns = [turn for row in rows for turn in redial.to_turns(row.value)]
    assert len(list(recipes.dialogue_examples(rows, **how))) == 3
    assert [e.id for e in found] == [turn["turn_id"] for turn in turns]
    assert all(example.only_last for example in found)
    for example, turn in zip(found, turns, strict=True):
        assert ("\nFilm: " in example.messages[0]["content"]) == bool(turn["target_movie_ids"])
        assert example.messages[-1]["content"] == turn["response"]
