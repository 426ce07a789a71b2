"""The chat model's figures: likelihood of ReDial's test answers, and what its own replies are like."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ecr_ray import progress, prompts
from ecr_ray.data import reading
from ecr_ray.data.titles import Titles
from ecr_ray.data.titles import load as load_titles
from ecr_ray.evaluation.text_measures import distinct_corpus as distinct
from ecr_ray.evaluation.text_measures import distinct_each
from ecr_ray.models import ngram, tiny
from ecr_ray.models.measuring import interval, read
from ecr_ray.policy import recipes, tokens

MAX_LENGTH = 512
REPLIES, REPLY_TOKENS = 500, 80
TEMPERATURE, TOP_P = 0.7, 0.9
SAMPLES = 10


@dataclass
class Loss:
    """Summed negative log-likelihood in nats of the answers of each dialogue, their tokens and their bytes."""

    nats_D: np.ndarray
    tokens_D: np.ndarray
    bytes_D: np.ndarray

    def rows(self, against: str, seed: int) -> list[dict[str, Any]]:
        """Perplexity per token and per byte, as record rows."""
        each = np.arange(len(self.nats_D))
        per_token = interval(
            lambda picked: math.exp(self.nats_D[picked].sum() / self.tokens_D[picked].sum()), each, seed
        )
        per_byte = interval(lambda picked: math.exp(self.nats_D[picked].sum() / self.bytes_D[picked].sum()), each, seed)
        return [
            {"measure": "perplexity per token", "model": against, **per_token},
            {"measure": "perplexity per byte", "model": against, **per_byte},
        ]


# --- likelihood -------------------------------------------------------------------------------------------


def held_out_examples(tokenizer: Any) -> list[tokens.Example]:
    """ReDial's test dialogues as conversations."""
    rows = (row for row in read("redial:test") if isinstance(row, reading.Row))
    system_role = prompts.accepts_system_role(tokenizer)
    return list(recipes.dialogue_examples(rows, system_role=system_role, valid_share=0, split="valid"))


def tokenized(examples: Sequence[tokens.Example], tokenizer: Any) -> list[list[dict[str, list[int]]]]:
    """The rows of every conversation, each answer labelled in one of them."""
    template = tokens.Encoder.of(tokenizer)
    return [tokens.rows_of(example, template, MAX_LENGTH) for example in examples]


def answer_bytes(example: tokens.Example) -> int:
    """UTF-8 bytes of the answers, one more each for its end."""
    return sum(len(m["content"].encode()) + 1 for m in example.messages if m["role"] == "assistant")


def model_loss(
    model: Any, conversations: Sequence[Sequence[dict[str, list[int]]]], pad: int
) -> list[tuple[float, int]]:
    """(nats, tokens) of every conversation's answers under a model."""
    import torch

    rows = [(n, row) for n, rows in enumerate(conversations) for row in rows]
    rows.sort(key=lambda entry: len(entry[1]["input_ids"]))
    found = np.zeros((len(conversations), 2))
    with torch.inference_mode():
        for start in progress.bar("likelihood", range(0, len(rows), 16)):
            batch = rows[start : start + 16]
            longest = max(len(row["input_ids"]) for _, row in batch)
            ids = torch.full((len(batch), longest), pad)
            labels = torch.full((len(batch), longest), tokens.IGNORED)
            for at, (_, row) in enumerate(batch):
                ids[at, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
                labels[at, : len(row["labels"])] = torch.tensor(row["labels"])
            # Padding is on the right, where causal attention does not see it.
            logits = model(input_ids=ids).logits[:, :-1].float()
            nats = torch.nn.functional.cross_entropy(
                logits.transpose(1, 2), labels[:, 1:], ignore_index=tokens.IGNORED, reduction="none"
            )
            for at, (n, _) in enumerate(batch):
                found[n] += nats[at].sum().item(), (labels[at, 1:] != tokens.IGNORED).sum().item()
    return [(float(nats), int(count)) for nats, count in found]


def ngram_loss(lm: ngram.BackOff, conversations: Sequence[Sequence[dict[str, list[int]]]]) -> list[tuple[float, int]]:
    """The same under an n-gram model."""
    found = []
    for rows in progress.bar("n-gram", conversations):
        nats, count = 0.0, 0
        for row in rows:
            words = ["<s>", *ngram.words(row["input_ids"])]
            for at, label in enumerate(row["labels"]):
                if label != tokens.IGNORED:
                    nats -= lm.log_prob(words[at + 1], words[max(0, at - ngram.ORDER + 2) : at + 1])
                    count += 1
        found.append((nats, count))
    return found


# --- replies ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    """An answer to a test dialogue; `ended`: by its own end-of-turn token."""

    dialogue_id: str
    prompt: tuple[dict[str, str], ...]
    text: str
    ended: bool


def prompts_of(examples: Sequence[tokens.Example], count: int, seed: int) -> list[tuple[str, tuple, str]]:
    """(dialogue id, chat up to a recommender's turn, what people answered) of so many turns drawn by seed."""
    turns = [
        (example.id, example.messages[:at], message["content"])
        for example in examples
        for at, message in enumerate(example.messages)
        if message["role"] == "assistant"
    ]
    drawn = np.random.default_rng(seed).permutation(len(turns))[:count]
    return [turns[n] for n in sorted(drawn)]


def generate(model: Any, tokenizer: Any, asked: Sequence[tuple[str, tuple, str]], seed: int) -> list[Reply]:
    """One sampled reply to every prompt; the oldest tokens of a long one are cut."""
    import torch

    torch.manual_seed(seed)
    replies = []
    for start in progress.bar("replies", range(0, len(asked), 32)):
        batch = asked[start : start + 32]
        chats = [tokenizer.apply_chat_template(list(chat), tokenize=False) for _, chat, _ in batch]
        tokenizer.truncation_side = "left"
        inputs = tokenizer(
            chats, return_tensors="pt", padding=True, truncation=True, max_length=MAX_LENGTH, add_special_tokens=False
        )
        with torch.inference_mode():
            found = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=REPLY_TOKENS,
                do_sample=True,
                temperature=TEMPERATURE,
                top_p=TOP_P,
                top_k=0,
            )
        for (dialogue_id, chat, _), ids in zip(batch, found[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            ended = tokenizer.eos_token_id in ids
            text = tokenizer.decode(ids, skip_special_tokens=True).strip()
            replies.append(Reply(dialogue_id, tuple(chat), text, ended))
    return replies


def reply_rows(replies: Sequence[Reply], titles: Titles, model: str, seed: int) -> list[dict[str, Any]]:
    """Distinct-n, self-ending, named titles and length of replies, as record rows."""
    texts = np.array([reply.text for reply in replies], dtype=object)
    groups = np.array([reply.dialogue_id for reply in replies])
    ended = np.array([reply.ended for reply in replies])
    named = [titles.named(text) for text in texts]
    all_n = np.array([len(found) for found in named])
    real_n = np.array([sum(found) for found in named])

    def row(measure: str, value: Callable[[np.ndarray], float]) -> dict[str, Any]:
        return {"measure": measure, "model": model, **interval(value, groups, seed)}

    rows = []
    for n in (1, 2):
        # No interval: a resample holds texts twice, and so fewer different n-grams.
        corpus = {"value": round(distinct(texts, n), 4), "low": None, "high": None}
        size = {"n": len(texts), "dialogues": len(set(groups.tolist()))}
        rows.append({"measure": f"distinct-{n}, corpus", "model": model, **corpus, **size})
        each = distinct_each(texts, n)
        rows.append(row(f"distinct-{n}, mean per reply", lambda picked, each=each: float(np.nanmean(each[picked]))))
    rows.append(row("ends by itself, share", lambda picked: float(ended[picked].mean())))
    rows.append(row("titles named per reply", lambda picked: float(all_n[picked].mean())))
    rows.append(
        row(
            "named titles that exist, share",
            lambda picked: float(real_n[picked].sum() / all_n[picked].sum()) if all_n[picked].any() else math.nan,
        )
        | {"titles": int(all_n.sum())}
    )
    words = np.array([len(text.split()) for text in texts])
    rows.append(row("words per reply", lambda picked: float(words[picked].mean())))
    return rows


# --- the chat model ---------------------------------------------------------------------------------------


def measure(directory: Path, seed: int) -> dict[str, Any]:
    """All figures of the chat model, and ten of its replies as they came."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    examples = held_out_examples(tokenizer)
    conversations = tokenized(examples, tokenizer)
    bytes_D = np.array([answer_bytes(example) for example in examples])
    titles = load_titles("redial")
    asked = prompts_of(examples, REPLIES, seed)
    rows: list[dict[str, Any]] = []
    shown: list[dict[str, str]] = []
    for name, path in (("ecr-tiny-chat", directory), ("untrained twin", Path(tiny.resolve_model("tiny:0")))):
        model = AutoModelForCausalLM.from_pretrained(path, dtype="float32").eval()
        rows += _loss(model_loss(model, conversations, tokenizer.pad_token_id), bytes_D).rows(name, seed)
        rows += reply_rows(generate(model, tokenizer, asked, seed), titles, name, seed)
        shown = shown or samples(model, tokenizer, seed)
    people = [Reply(dialogue_id, tuple(chat), answer, True) for dialogue_id, chat, answer in asked]
    rows += [row for row in reply_rows(people, titles, "people", seed) if "ends" not in row["measure"]]
    lm = ngram.estimate(row["input_ids"] for row in train_rows(tokenizer))
    rows += _loss(ngram_loss(lm, conversations), bytes_D).rows("Kneser-Ney 5-gram", seed)
    return {
        "rows": rows,
        "samples": shown,
        "decoding": {"temperature": TEMPERATURE, "top_p": TOP_P, "max_new_tokens": REPLY_TOKENS},
    }


def samples(model: Any, tokenizer: Any, seed: int) -> list[dict[str, str]]:
    """Replies to turns of the embedded sample's test dialogues, as they come: no text of ReDial's stands in a card."""
    system_role = prompts.accepts_system_role(tokenizer)
    rows = (row for row in read("sample") if isinstance(row, reading.Row) and row.value["split"] == "test")
    examples = list(recipes.dialogue_examples(rows, system_role=system_role, valid_share=0, split="valid"))
    replies = generate(model, tokenizer, prompts_of(examples, SAMPLES, seed), seed)
    return [{"seeker": reply.prompt[-1]["content"], "reply": reply.text} for reply in replies]


def train_rows(tokenizer: Any) -> Iterator[dict[str, list[int]]]:
    """What the chat model learnt from."""
    rows = (row for row in read("redial:train") if isinstance(row, reading.Row))
    encoder = tokens.Encoder.of(tokenizer)
    system_role = prompts.accepts_system_role(tokenizer)
    for example in recipes.dialogue_examples(rows, system_role=system_role, valid_share=0, split="train"):
        yield from tokens.rows_of(example, encoder, MAX_LENGTH)


def _loss(found: Sequence[tuple[float, int]], bytes_D: np.ndarray) -> Loss:
    nats, counts = zip(*found, strict=True)
    return Loss(np.array(nats), np.array(counts), bytes_D)
