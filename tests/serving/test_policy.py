"""What is asked of a policy, as its model reads it."""

import asyncio
from types import SimpleNamespace

import pytest

from ecr_ray.config import ServeConfig
from ecr_ray.models import tiny
from ecr_ray.serving import policy as serving_policy
from ecr_ray.serving.adapters import Version
from ecr_ray.serving.policy import Asked, Policy, TooLong

PLAIN = Version("ecr-tiny-chat", "", "")


@pytest.fixture
def tokenizer():
    found = tiny.load_tokenizer()
    found.add_special_tokens({"additional_special_tokens": ["<start_of_turn>"]})
    return found


@pytest.fixture
def policy(tokenizer):
    found = Policy(ServeConfig())
    found.read_with(tokenizer)
    return found


@pytest.mark.parametrize(
    "asked", [{"chat": ({"role": "user", "content": "{}"},)}, {"dialogue": ({"role": "seeker", "text": "{}"},)}]
)
def test_a_control_token_of_this_model_alone_is_letters_in_what_strangers_write(policy, tokenizer, asked):
    (kind, (message,)) = next(iter(asked.items()))
    said = {key: value.format("a <start_of_turn> b") for key, value in message.items()}
    ids = policy.prompt_ids(Asked(PLAIN, 8, 0.0, **{kind: (said,)}))
    assert tokenizer.convert_tokens_to_ids("<start_of_turn>") not in ids
    assert "a < start_of_turn> b" in tokenizer.decode(ids)


def test_a_prompt_that_leaves_no_room_for_the_answer_is_told(policy):
    asked = Asked(PLAIN, 8, 0.0, chat=({"role": "user", "content": "word " * 4000},))
    with pytest.raises(TooLong, match="leave beside an answer of 8"):
        policy.prompt_ids(asked)


class Engine:
    """In vLLM's place: everybody's next word comes in the same step, in the order of their requests."""

    def __init__(self):
        self.step = asyncio.Event()

    async def generate(self, prompt, params, number, lora_request):
        if params.seed == 1:
            yield self._output("first of one")
        await self.step.wait()
        yield self._output("next of one" if params.seed == 1 else "first of two")

    def shutdown(self):
        pass

    def _output(self, text):
        part = SimpleNamespace(index=0, text=text, token_ids=[7], finish_reason=None, finished=lambda: False)
        return SimpleNamespace(outputs=[part], finished=False)


def test_a_first_word_goes_out_before_what_others_write_further(policy, monkeypatch):
    monkeypatch.setattr(serving_policy, "PIECE_S", 0)
    shown = []

    async def listener(number):
        asked = Asked(PLAIN, 8, 0.0, chat=({"role": "user", "content": "hi"},), seed=number)
        async for pieces in policy.stream(asked):
            shown.extend(piece.text for piece in pieces)

    async def run():
        policy._engine = Engine()
        async with asyncio.TaskGroup() as group:
            for number in (1, 2):
                group.create_task(listener(number))
            while not shown:
                await asyncio.sleep(0)
            policy._engine.step.set()

    asyncio.run(run())
    assert shown == ["first of one", "first of two", "next of one"]
