"""Who annotates, and what an LLM is asked."""

import numpy as np
import pytest

from ecr_ray import prompts
from ecr_ray.config import AnnotateConfig, ConfigError, JudgeConfig
from ecr_ray.emotion import annotate, annotators
from ecr_ray.emotion.annotators import EmotionAsker
from ecr_ray.records import EMOTIONS
from ecr_ray.scoring.digits import AnswerError

ASKER = EmotionAsker(JudgeConfig(model="ecr-tiny-judge", name="x", max_model_len=400), annotators.RUBRIC)
DIALOGUE = [{"role": "recommender", "text": "Hello, what do you like?"}, {"role": "seeker", "text": "I miss my  dog"}]


def test_an_llm_is_shown_the_dialogue_up_to_the_message_and_answers_nine_digits():
    text = ASKER.text(DIALOGUE, "I miss my  dog")
    assert (
        text.rstrip()
        .split("Dialogue:\n")[1]
        .startswith("Recommender: Hello, what do you like?\nSeeker: I miss my dog\n\nRatings of the last message:")
    )
    assert ASKER.aspects == EMOTIONS and ASKER.sampling_params()["max_tokens"] == 9
    for emotion in EMOTIONS:
        assert f". {emotion}: " in text
    assert "Answer with 9 digits" in text and prompts.EMOTION_RUBRIC.task in text


def test_of_a_long_dialogue_the_oldest_messages_go_and_the_message_itself_never():
    long = [{"role": "seeker", "text": "word " * 60}, *DIALOGUE]
    ids, dropped = ASKER.tokens(long, DIALOGUE[-1]["text"])
    assert dropped == 1 and "I miss my dog" in ASKER.tokenizer.decode(ids)
    with pytest.raises(AnswerError, match="the message alone is longer"):
        ASKER.tokens([{"role": "seeker", "text": "word " * 600}], "word " * 600)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"annotator": "nowhere"}, "there is no classifier 'nowhere'.*judges: .*ecr-tiny-judge"),
        ({"annotator": "ecr-tiny-reader"}, "has the heads satisfaction, not the nine emotions"),
        ({"annotator": "critic"}, "is a critic: it has no emotions"),
    ],
)
def test_what_cannot_annotate_is_named(changes, said):
    with pytest.raises(ConfigError, match=said):
        annotate.check(AnnotateConfig(**changes))


def test_a_judge_by_name_goes_through_the_scoring_engine():
    asker, over = annotators.choose(AnnotateConfig(annotator="ecr-tiny-judge", engines=2), 0)
    assert over is None and asker.judge.engines == 2 and asker.judge.backend == "vllm"


def test_the_likeliest_emotion_comes_first_and_unlikely_ones_are_not_kept():
    probability = np.zeros(len(EMOTIONS))
    probability[[0, 2, 4]] = 0.2, 0.9, 0.1
    found = annotators.kept(probability, 0.1)
    assert [(e["label"], e["prob"]) for e in found] == [(EMOTIONS[2], 0.9), (EMOTIONS[0], 0.2)]
    assert annotators.kept(None, 0.1) == []
