"""Chat templates with generation markers: which tokens of a conversation are an answer, its end included.

Many models are published with a template that has no markers. Where it is one of those below but for the markers,
the marked one takes its place; it renders the same text, which is checked. Any other must bring its own.
"""

import re
from typing import Any

from ecr_ray.errors import UserError
from ecr_ray.models.tiny import CHAT_TEMPLATE

MARKER = "{% generation %}"


class TemplateError(UserError):
    """A chat template from which nobody can tell what the assistant says."""


def _inst(answer: str, bos_each_turn: bool) -> str:
    """A template of the [INST] family; `answer` renders what the assistant says."""
    bos = "bos_token + " if bos_each_turn else "(bos_token if loop.first else '') + "
    return (
        "{% if messages[0]['role'] == 'system' %}"
        "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}{% set turns = messages[1:] %}"
        "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
        "{% for message in turns %}{% if message['role'] == 'user' %}"
        "{{ " + bos + "'[INST] ' + ((system if loop.first else '') + message['content']).strip() + ' [/INST]' }}"
        "{% else %}{% generation %}{{ " + answer + " + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
    )


# Of Llama-2-chat, and of Mistral-7B-Instruct and Mixtral, which take no system role.
CANDIDATES = (
    CHAT_TEMPLATE,
    _inst("' ' + message['content'].strip() + ' '", bos_each_turn=True),
    _inst("' ' + message['content']", bos_each_turn=False),
    _inst("message['content']", bos_each_turn=False),
)
_PROBE = [
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
    {"role": "assistant", "content": "four"},
]


def training_template(tokenizer: Any) -> str:
    """The tokenizer's template with generation markers.

    Raises:
        TemplateError: it has none and is none of those known here, or the end of the turn is not in the markers.
    """
    template, name = tokenizer.chat_template, tokenizer.name_or_path
    if not template:
        raise TemplateError(f"the tokenizer of {name} has no chat template: take a chat model as --base")
    if not _has_markers(template):
        wanted = _render(tokenizer, template)
        marked = next((known for known in CANDIDATES if _render(tokenizer, known) == wanted), None)
        if marked is None:
            raise TemplateError(
                f"the chat template of {name} has no {MARKER} markers and is none of those known here, so that "
                "answers cannot be told from questions: save its tokenizer with a template that has them"
            )
        template = marked
    _check_end_of_turn(tokenizer, template, name)
    return template


def _has_markers(template: str) -> bool:
    return re.search(r"\{%-?\s*generation\s*-?%\}", template) is not None


def _render(tokenizer: Any, template: str) -> str:
    return tokenizer.apply_chat_template(_PROBE, chat_template=template, tokenize=False)


def _check_end_of_turn(tokenizer: Any, template: str, name: str) -> None:
    """The last token of an answer must be learnt, or the policy never learns to stop."""
    found = tokenizer.apply_chat_template(
        _PROBE, chat_template=template, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    learnt = [token for token, marked in zip(found["input_ids"], found["assistant_masks"], strict=True) if marked]
    if tokenizer.eos_token_id not in learnt:
        raise TemplateError(
            f"in the chat template of {name} the end-of-turn token {tokenizer.eos_token!r} is outside the "
            "generation markers: the policy would never learn to stop"
        )
