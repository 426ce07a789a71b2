"""What PPO brought: the same test questions answered before it, by the best of eight, after it, and by people.

The critic that was climbed is beside two judges that took no part in its training: how near an answer's sentence
embedding is to what the human recommender said there, and how usual its words are to a 5-gram of counts. How many
films it names, its length and its variety stand next to them, so that climbing the critic's errors shows.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ecr_ray import progress
from ecr_ray.data import reading
from ecr_ray.data.titles import Titles
from ecr_ray.data.titles import load as load_titles
from ecr_ray.encoders import predict
from ecr_ray.models import chat_measures, ngram, tiny
from ecr_ray.models.chat_measures import Reply, reply_rows
from ecr_ray.models.measuring import interval, read
from ecr_ray.policy import sampling, weights
from ecr_ray.policy.ppo import networks, questions
from ecr_ray.policy.ppo.loop import seeds
from ecr_ray.policy.ppo.questions import Question
from ecr_ray.policy.sampling import Sample, Sampling

BEFORE, BEST, AFTER, PEOPLE = "ecr-tiny-chat", "best of 8 of ecr-tiny-chat", "ecr-tiny-ppo", "people"
QUESTIONS, ANSWERS, SHOWN = 500, 8, 10
MAX_PROMPT, MAX_TOKENS = 192, 64
# 64 questions at once are a batch's worth.
ROWS = 64


@dataclass(frozen=True)
class System:
    """One answer to every question, and the KL from the policy before PPO where there is one."""

    texts: list[str]
    ended: list[bool]
    samples: list[Sample] | None = None
    kl_N: np.ndarray | None = None


def measure(directory: Path, seed: int) -> dict[str, Any]:
    """All figures of a policy after PPO, and some of its answers as they came.

    Args:
        directory: the adapter.
        seed: of the questions, the sampling and the intervals.
    """
    tokenizer = weights.load_tokenizer("ecr-tiny-chat", None)
    asked = held_out_questions(tokenizer, seed)
    before, after = load(None), load(directory)
    systems = _systems(before, after, tokenizer, asked, seed)
    judges = _judges(asked, tokenizer, systems)
    titles, groups = load_titles("redial"), np.array([question.dialogue_id for question in asked])
    rows: list[dict[str, Any]] = []
    for name, system in systems.items():
        rows += [_row(judge, name, judges[judge], groups, seed) for judge in judges if name in judges[judge]]
        if system.kl_N is not None:
            kl = interval(lambda picked, kl=system.kl_N: float(kl[picked].mean()), groups, seed)
            rows.append({"measure": "KL from ecr-tiny-chat, nats an answer", "model": name, **kl, "ahead": None})
        rows += _texts(system, asked, titles, name, seed)
    return {
        "rows": rows,
        "weights_changed": weights_differ(directory),
        "samples": _samples(before, after, tokenizer, seed),
        "decoding": {"temperature": 1.0, "max_new_tokens": MAX_TOKENS},
    }


def held_out_questions(tokenizer: Any, seed: int) -> list[Question]:
    """ReDial's test split: a question of as many dialogues as there are questions."""
    rows = (row for row in read("redial:test") if isinstance(row, reading.Row))
    return questions.spread(questions.ask(rows, tokenizer, MAX_PROMPT, Counter()), QUESTIONS, seed)


def load(adapter: Path | None) -> Any:
    """The chat model, with an adapter merged in if there is one."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny.resolve_model("ecr-tiny-chat"), dtype="float32").eval()
    if adapter is None:
        return model
    from peft import PeftModel

    return PeftModel.from_pretrained(model, adapter).merge_and_unload().eval()


def weights_differ(adapter: Path) -> float:
    """The largest change of a weight."""
    ours, theirs = load(adapter).state_dict(), load(None).state_dict()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)


def answer(model: Any, tokenizer: Any, asked: Sequence[Question], drawn: Sequence[int], what: str) -> list[Sample]:
    """A sampled answer to every question, drawn as PPO draws them."""
    found: list[Sample] = []
    how, ids = Sampling(MAX_TOKENS, rows=ROWS), (tokenizer.eos_token_id, tokenizer.pad_token_id)
    for begin in progress.bar(what, range(0, len(asked), ROWS)):
        part = [question.ids for question in asked[begin : begin + ROWS]]
        found += sampling.generate(model, part, drawn[begin : begin + ROWS], how, *ids)
    return found


def _systems(before: Any, after: Any, tokenizer: Any, asked: list[Question], seed: int) -> dict[str, System]:
    drawn = [seeds(seed, number, len(asked)) for number in range(ANSWERS)]
    tries = [answer(before, tokenizer, asked, each, f"answers {n + 1}") for n, each in enumerate(drawn)]
    reinforced = answer(after, tokenizer, asked, drawn[0], "after PPO")
    texts = [_decoded(tokenizer, each) for each in tries]
    opinions = np.stack([_critic(asked, each) for each in texts])
    best = opinions.argmax(0)
    chosen = [tries[k][n] for n, k in enumerate(best)]
    return {
        BEFORE: _system(tokenizer, tries[0]),
        BEST: _system(tokenizer, chosen),
        AFTER: System(
            _decoded(tokenizer, reinforced),
            [sample.ended for sample in reinforced],
            reinforced,
            _kl(after, before, asked, reinforced),
        ),
        PEOPLE: System([question.response for question in asked], [True] * len(asked)),
    }


def _system(tokenizer: Any, samples: list[Sample]) -> System:
    return System(_decoded(tokenizer, samples), [sample.ended for sample in samples], samples)


def _decoded(tokenizer: Any, samples: Sequence[Sample]) -> list[str]:
    return [text.strip() for text in tokenizer.batch_decode([s.ids for s in samples], skip_special_tokens=True)]


def _kl(after: Any, before: Any, asked: Sequence[Question], samples: Sequence[Sample]) -> np.ndarray:
    """Of every answer, log p(after) − log p(before): its mean over answers is the KL, (N,)."""
    import torch

    found = []
    with torch.inference_mode():
        for question, sample in zip(asked, samples, strict=True):
            packed = networks.Packed.of([(question.ids, sample.ids)], 0, "cpu")
            ours, theirs = (
                networks.token_log_probs(model, packed.ids_BL, packed.at_N, packed.tokens_N, 1.0)[0].sum()
                for model in (after, before)
            )
            found.append(float(ours - theirs))
    return np.array(found)


# --- judges -----------------------------------------------------------------------------------------------


def _judges(asked: list[Question], tokenizer: Any, systems: Mapping[str, System]) -> dict[str, dict[str, np.ndarray]]:
    """Judge → system → its figure of every answer, (N,)."""
    lm = ngram.estimate(row["input_ids"] for row in progress.bar("n-gram", chat_measures.train_rows(tokenizer)))
    critic = {name: _critic(asked, system.texts) for name, system in systems.items()}
    human = _embedded(systems[PEOPLE].texts)
    near = {name: (_embedded(system.texts) * human).sum(1) for name, system in systems.items() if name != PEOPLE}
    usual = {name: _log_likelihood(lm, tokenizer, asked, system) for name, system in systems.items()}
    return {
        "ecr-tiny-critic, overall (climbed)": critic,
        "independent: nearness to people's answer, cosine": near,
        "independent: log-likelihood a token, 5-gram": usual,
    }


_critics: dict[str, predict.Local] = {}


def _critic(asked: Sequence[Question], texts: Sequence[str]) -> np.ndarray:
    from ecr_ray.policy.ppo import rewards

    local = _critics.setdefault("ecr-tiny-critic", predict.Local("ecr-tiny-critic"))
    return rewards.of_critic(local.predict, {"overall": 1.0}, 0.0)([q.context for q in asked], texts)


def _embedded(texts: Sequence[str]) -> np.ndarray:
    """The packaged sentence encoder's embeddings, of length 1, (N, H)."""
    import torch
    from transformers import AutoModel

    from ecr_ray.encoders import model, text

    encoder = AutoModel.from_pretrained(text.resolve_encoder(text.MINILM)).eval()
    tokenizer = text.load_tokenizer(text.MINILM)
    found = []
    with torch.inference_mode():
        for begin in range(0, len(texts), ROWS):
            part = [t or "." for t in texts[begin : begin + ROWS]]
            inputs = tokenizer(part, padding=True, truncation=True, max_length=128, return_tensors="pt")
            pooled = model.pool(encoder(**inputs).last_hidden_state, inputs["attention_mask"], "mean")
            found.append(torch.nn.functional.normalize(pooled, dim=-1).numpy())
    return np.concatenate(found)


def _log_likelihood(lm: ngram.BackOff, tokenizer: Any, asked: Sequence[Question], system: System) -> np.ndarray:
    """Of every answer's tokens after its question, nats a token, (N,)."""
    found = []
    for n, question in enumerate(asked):
        ids = system.samples[n].ids if system.samples else [*tokenizer(f" {system.texts[n]}")["input_ids"], 2]
        words = ["<s>", *ngram.words([*question.ids, *ids])]
        places = range(len(words) - len(ids), len(words))
        found.append(np.mean([lm.log_prob(words[at], words[max(0, at - ngram.ORDER + 1) : at]) for at in places]))
    return np.array(found)


def _row(judge: str, name: str, values: Mapping[str, np.ndarray], groups: np.ndarray, seed: int) -> dict[str, Any]:
    """A judge's mean of a system, and how far the policy after PPO is ahead of it, question by question."""
    mean: Callable[[np.ndarray], float] = lambda picked: float(values[name][picked].mean())  # noqa: E731
    ahead = None
    if name != AFTER and AFTER in values:
        difference = values[AFTER] - values[name]
        ahead = interval(lambda picked: float(difference[picked].mean()), groups, seed)
    return {"measure": judge, "model": name, **interval(mean, groups, seed), "ahead": ahead}


def _texts(system: System, asked: Sequence[Question], titles: Titles, name: str, seed: int) -> list[dict[str, Any]]:
    replies = [
        Reply(question.dialogue_id, (), text, ended)
        for question, text, ended in zip(asked, system.texts, system.ended, strict=True)
    ]
    rows = reply_rows(replies, titles, name, seed)
    return [{**row, "ahead": None} for row in rows if name != PEOPLE or "ends" not in row["measure"]]


def _samples(before: Any, after: Any, tokenizer: Any, seed: int) -> list[dict[str, str]]:
    """Answers to turns of the embedded sample's test dialogues: no text of ReDial's stands in a card."""
    rows = (row for row in read("sample") if isinstance(row, reading.Row) and row.value["split"] == "test")
    asked = questions.spread(questions.ask(rows, tokenizer, MAX_PROMPT, Counter()), SHOWN, seed)
    drawn = seeds(seed, 0, len(asked))
    both = [_decoded(tokenizer, answer(model, tokenizer, asked, drawn, "samples")) for model in (before, after)]
    return [
        {"seeker": question.context[-1]["text"], "before": a, "reply": b}
        for question, a, b in zip(asked, *both, strict=True)
    ]
