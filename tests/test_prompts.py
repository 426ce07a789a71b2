import os

from hypothesis import given
from hypothesis import strategies as st

from ecr_ray import prompts

MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["seeker", "recommender"]), "text": st.text(max_size=40)})


def test_the_rubrics_have_the_published_aspects():
    assert list(prompts.RUBRICS["ecr-ma"].aspects) == [
        "empathy",
        "informativeness",
        "recommendation",
        "engagement",
    ]
    assert len(prompts.RUBRICS["ecr"].aspects) == 5


def test_a_question_reads_like_a_dialogue():
    context = [{"role": "seeker", "text": "I loved  Heat.\r\nMore?"}]
    assert prompts.judge_question(context, "Try Ronin (1998).") == (
        "Dialogue:\nSeeker: I loved Heat. More?\nRecommender: Try Ronin (1998).\n\nRatings of the last message:"
    )


@given(st.lists(MESSAGE, max_size=5), st.text(max_size=40), MESSAGE)
def test_consecutive_turns_share_everything_before_their_last_lines(context, response, reply):
    first = prompts.judge_question(context, response)
    later = prompts.judge_question([*context, {"role": "recommender", "text": response}, reply], "next")
    shared = os.path.commonprefix([first, later])
    assert shared.startswith(prompts.judge_question(context, response).removesuffix("\n\nRatings of the last message:"))


def test_without_a_system_role_nothing_of_the_rubric_is_lost():
    rubric = prompts.RUBRICS["ecr"]
    (only,) = prompts.judge_messages(rubric, "QUESTION", system_role=False)
    assert only["role"] == "user"
    assert prompts.rubric_text(rubric) in only["content"] and only["content"].endswith("QUESTION")
