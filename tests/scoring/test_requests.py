import os

import pytest

from ecr_ray.config import JudgeConfig
from ecr_ray.models import tiny
from ecr_ray.scoring import digits
from ecr_ray.scoring.requests import Asker, UnfitTokenizer

CONTEXT = [{"role": "seeker", "text": "I am sad today."}, {"role": "recommender", "text": "Tell me more."}]


def asker(**changes):
    return Asker(JudgeConfig(**{"model": "tiny:0", "name": "t", "max_model_len": 2048, **changes}), "ecr-ma")


def test_the_prompt_ends_where_the_first_digit_stands():
    a = asker()
    ids, dropped = a.tokens(CONTEXT, "Watch Up.")
    assert dropped == 0
    text = a.tokenizer.decode(ids)
    assert text.startswith("<s>[INST] <<SYS>>\nYou are a strict evaluator")
    assert text.endswith("Recommender: Tell me more.\nRecommender: Watch Up.\n\nRatings of the last message: [/INST] ")


def test_the_frame_gives_what_the_chat_template_gives():
    from ecr_ray import prompts

    a = asker()
    question = prompts.judge_question(CONTEXT, "Watch Up.")
    messages = prompts.judge_messages(prompts.RUBRICS["ecr-ma"], question)
    whole = a.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert a.text(CONTEXT, "Watch Up.") == whole + " "


def test_consecutive_turns_share_their_tokens():
    a = asker()
    first, _ = a.tokens(CONTEXT, "Watch Up.")
    more = [*CONTEXT, {"role": "recommender", "text": "Watch Up."}, {"role": "seeker", "text": "ok"}]
    second, _ = a.tokens(more, "Enjoy!")
    shared = len(os.path.commonprefix([first, second]))
    assert shared > 0.9 * len(first)


def test_a_long_dialogue_loses_its_oldest_messages_and_says_so():
    a = asker(max_model_len=330)
    long = [{"role": "seeker", "text": f"message {n} " + "film " * 20} for n in range(20)]
    ids, dropped = a.tokens(long, "Watch Up.")
    assert 0 < dropped < 20 and len(ids) + 4 <= 330
    assert f"message {dropped} " in a.tokenizer.decode(ids) and f"message {dropped - 1} " not in a.tokenizer.decode(ids)
    with pytest.raises(digits.AnswerError) as error:
        asker(max_model_len=50).tokens(long, "Watch Up.")
    assert error.value.status == "prompt_too_long"


def test_a_template_that_refuses_a_system_role_still_gets_the_rubric(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.resolve_model("tiny:0"))
    # The check that Mistral-7B-Instruct v0.1/v0.2 and Mixtral-8x7B-Instruct make, in this test's own words.
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}"
        "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('only user and assistant, in turn') }}{% endif %}"
        "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
        "{% else %}{{ m['content'] + eos_token }}{% endif %}"
        "{% endfor %}"
    )
    tokenizer.save_pretrained(tmp_path)
    a = asker(model=str(tmp_path))
    assert not a.system_role
    text = a.text(CONTEXT, "Watch Up.")
    assert text.startswith("<s>[INST] You are a strict evaluator") and text.endswith("[/INST]")


def test_a_template_that_drops_the_system_role_is_found_out(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.resolve_model("tiny:0"))
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['content'] }}{% endif %}{% endfor %}"
    )
    tokenizer.save_pretrained(tmp_path)
    assert not asker(model=str(tmp_path)).system_role


def test_a_tokenizer_without_digit_tokens_is_refused(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "12": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(tmp_path)
    with pytest.raises(UnfitTokenizer, match="judge t: its tokenizer has no token for every digit"):
        _ = asker(model=str(tmp_path)).digit_ids


def test_an_answer_becomes_a_row_and_a_short_one_a_failure():
    a = asker()
    sure_of_five = {i: {"logprob": 0.0 if d == 5 else -50.0} for d, i in enumerate(a.digit_ids)}
    found = a.judgment([sure_of_five] * 4)
    assert found.scores == pytest.approx([5 / 9] * 4)
    for answer in (None, [sure_of_five] * 3):
        with pytest.raises(digits.AnswerError) as error:
            a.judgment(answer)
        assert error.value.status == "short_answer"


def test_a_row_without_a_judgment_has_null_scores():
    row = asker().score_row({"turn_id": "a:1", "dialogue_id": "a", "index": 1}, None, status="x", reason="y")
    assert [row[k] for k in ("empathy", "overall", "confidence", "digit_mass")] == [None] * 4
