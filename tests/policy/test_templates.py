"""Templates with markers: the model's own, one of the known ones in place of a bare one, or a refusal."""

import pytest

from ecr_ray.models import tiny
from ecr_ray.policy import templates

# As Meta publishes it with Llama-2-chat, in other words: what it renders is what counts here.
LLAMA_2 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + message['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
)


@pytest.fixture
def tokenizer():
    return tiny.load_tokenizer()


def test_a_template_with_markers_is_taken_as_it_is(tokenizer):
    assert templates.training_template(tokenizer) == tokenizer.chat_template


def test_llama_2s_bare_template_gets_markers_around_answer_and_end(tokenizer):
    tokenizer.chat_template = LLAMA_2
    marked = templates.training_template(tokenizer)
    chat = [{"role": "user", "content": "U"}, {"role": "assistant", "content": "A"}]
    assert tokenizer.apply_chat_template(chat, chat_template=marked, tokenize=False) == "<s>[INST] U [/INST] A </s>"
    found = tokenizer.apply_chat_template(
        chat, chat_template=marked, return_dict=True, return_assistant_tokens_mask=True
    )
    answer = [i for i, m in zip(found["input_ids"], found["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(answer) == " A </s>"


def test_an_unknown_bare_template_is_refused(tokenizer):
    tokenizer.chat_template = CHATML
    with pytest.raises(templates.TemplateError, match=r"has no \{% generation %\} markers"):
        templates.training_template(tokenizer)


def test_no_template_is_refused(tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(templates.TemplateError, match="no chat template"):
        templates.training_template(tokenizer)


def test_markers_that_leave_out_the_end_of_turn_are_refused(tokenizer):
    tokenizer.chat_template = tiny.CHAT_TEMPLATE.replace(
        "{{ ' ' + message['content'] + eos_token }}{% endgeneration %}",
        "{{ ' ' + message['content'] }}{% endgeneration %}{{ eos_token }}",
    )
    with pytest.raises(templates.TemplateError, match="outside the generation markers"):
        templates.training_template(tokenizer)
