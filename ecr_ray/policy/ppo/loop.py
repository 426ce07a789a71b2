"""The steps of PPO: sample, judge, learn, deliver, prove. The same in Ray Train's workers and in a plain process.

Every worker runs the loop; the first one alone talks to the rollouts and the reward, and tells the others.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ecr_ray.config import PpoConfig
from ecr_ray.policy.ppo import delivery, maths, networks, questions
from ecr_ray.policy.ppo.checkpoints import Progress
from ecr_ray.policy.ppo.delivery import Delivery, Probe, Proof
from ecr_ray.policy.ppo.learner import Judged, Learner, Targets
from ecr_ray.policy.ppo.questions import Question
from ecr_ray.policy.ppo.rewards import Rewarded, Rewarder, Scale
from ecr_ray.policy.rollouts import Answers, Rollouts
from ecr_ray.policy.sampling import Sampling

# Rows of the probe, and tokens of each: enough to tell one update from the next, few enough to cost nothing.
PROBE_ROWS, PROBE_TOKENS = 8, 8
# Random numbers of their own for the held-out questions and for the scale.
HELD_OUT, SCALE = -1, -2
STALE = "of an older version of the policy"


@dataclass(frozen=True)
class Asked:
    """All questions of a run."""

    learn: list[Question]
    held_out: list[Question]


@dataclass
class Hooks:
    """What the surroundings of a loop want to hear, and may ask of it."""

    entry: Callable[[dict[str, Any]], None] = lambda entry: None
    """After every step: what it was like. On the first worker."""
    held_out: Callable[[int, list[Question], list[str], Rewarded, np.ndarray], None] = lambda *_: None
    """After every look: step, held-out questions, answers, rewards, KL of each. On the first worker."""
    save: Callable[[], None] = lambda: None
    """Write a checkpoint. On every worker."""
    best: Callable[[], None] = lambda: None
    """Put the policy aside as the best so far. On every worker."""
    rejected: Callable[[int], None] = lambda count: None
    """So many samples were refused as too old. On the first worker."""
    hurry: Callable[[], bool] = lambda: False
    """Whether the node is about to go. On every worker, after every step."""


@dataclass
class Clock:
    """Seconds of a step by what they were spent on."""

    spent: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.spent[name] = self.spent.get(name, 0.0) + time.perf_counter() - begin

    def read(self) -> dict[str, float]:
        """By name, and `seconds` in all; starts again."""
        now = time.perf_counter()
        found = {f"seconds_{name}": value for name, value in self.spent.items()} | {"seconds": now - self.began}
        self.spent, self.began = {}, now
        return found


class Loop:
    """One worker's run."""

    def __init__(
        self,
        settings: PpoConfig,
        learner: Learner,
        asked: Asked,
        progress: Progress,
        tokenizer: Any,
        hooks: Hooks,
        rollouts: Rollouts | None,
        rewarder: Rewarder | None,
    ) -> None:
        """`rollouts` and `rewarder` are the first worker's."""
        self.settings, self.learner, self.asked, self.progress = settings, learner, asked, progress
        self.tokenizer, self.hooks, self.rollouts, self.rewarder = tokenizer, hooks, rollouts, rewarder
        self.group = learner.group
        self.first = self.group.rank == 0
        self.clock = Clock()
        self.beta = maths.Beta(settings.beta, settings.target_kl, settings.kl_horizon)
        if progress.beta is not None:
            self.beta.value = progress.beta
        self.how = Sampling(settings.max_new_tokens, settings.temperature)
        self.probe: Probe | None = None
        self.sent_bytes = 0
        self.stopped = False

    def run(self) -> None:
        """From where the run is to its end, or until it has to hurry."""
        self._start()
        settings, progress = self.settings, self.progress
        answers = self._end(self._begin(progress.step + 1)) if progress.step < settings.steps else None
        while progress.step < settings.steps and not self.stopped:
            step = progress.step + 1
            more = step < settings.steps
            overlap = settings.mode == "one_step_async" and more
            ahead = self._begin(step + 1) if overlap else None
            entry = self._step(step, answers)
            if overlap:
                # Of the version before: the new one is delivered when they are there.
                answers = self._end(ahead)
            with self.clock("sync"):
                proof = self._deliver(step)
            self._after(step, entry, proof)
            if more and not overlap and not self.stopped:
                answers = self._end(self._begin(step + 1))

    # --- before the first step --------------------------------------------------------------------------------

    def _start(self) -> None:
        """The policy to the engines, and, at the very start, the scale of the rewards and how good it is."""
        self._deliver(self.progress.step)
        if self.progress.scale is None:
            self._fix_scale()
        elif self.first:
            self.rewarder.scale = Scale(**self.progress.scale)
        if self.progress.step == 0 and self.asked.held_out:
            self._look(0)
        self.clock.read()

    def _fix_scale(self) -> None:
        """What a reward of 0 and of 1 is: mean and spread of the policy's answers before PPO."""
        if self.first:
            picked = questions.spread(self.asked.learn, self.settings.scale_samples, self.settings.seed)
            answers = self._answer(picked, SCALE)
            self._reward(picked, answers)
            self.progress.scale = {"mean": self.rewarder.scale.mean, "std": self.rewarder.scale.std}
        self.progress.scale = self.group.from_first(self.progress.scale)

    # --- a step -----------------------------------------------------------------------------------------------

    def _questions(self, step: int) -> list[Question]:
        picked = questions.of_step(len(self.asked.learn), self.settings.batch, step, self.settings.seed)
        return [self.asked.learn[n] for n in picked]

    def _begin(self, step: int) -> Any:
        if not self.first:
            return None
        return self.rollouts.begin(
            [question.ids for question in self._questions(step)],
            seeds(self.settings.seed, step, self.settings.batch),
            self.how,
        )

    def _end(self, begun: Any) -> Answers | None:
        with self.clock("rollout"):
            return self.rollouts.end(begun) if self.first else None

    def _step(self, step: int, answers: Answers | None) -> dict[str, Any]:
        """Judge the answers and learn from them; what that was like."""
        asked = self._questions(step)
        rewarded = None
        if self.first:
            self._refuse_stale(answers, step)
            with self.clock("reward"):
                rewarded = self._reward(asked, answers)
        shared = (answers, rewarded) if self.first else None
        with self.clock("share"):
            answers, rewarded = self.group.from_first(shared)
        rows = [(q.ids, sample.ids) for q, sample in zip(asked, answers.samples, strict=True)]
        with self.clock("learn"):
            judged = self.learner.judge(rows)
            targets, seen = self._targets(judged, answers, rewarded)
            rate = self.settings.learning_rate * (1 - (step - 1) / self.settings.steps)
            learnt = self.learner.update(judged, targets, step, rate)
        self.progress.optimizer_steps += self.learner.steps_a_update
        self.beta.update(seen["kl"], len(rows))
        self.progress.step, self.progress.beta = step, self.beta.value
        return seen | learnt | {"learning_rate": rate, "beta": self.beta.value} | self._texts(answers, rewarded)

    def _refuse_stale(self, answers: Answers, step: int) -> None:
        allowed = step - (2 if self.settings.mode == "one_step_async" else 1)
        stale = sum(not max(0, allowed) <= version < step for version in answers.versions)
        if stale:
            self.hooks.rejected(stale)
            raise delivery.PolicySyncError(
                f"{stale} of {len(answers.versions)} samples for step {step} are {STALE} than {allowed}: refused"
            )

    def _reward(self, asked: Sequence[Question], answers: Answers) -> Rewarded:
        texts = self._decoded(answers)
        ended = [sample.ended for sample in answers.samples]
        films = [question.film for question in asked] if self.settings.grounded else None
        return self.rewarder([question.context for question in asked], texts, ended, films)

    def _decoded(self, answers: Answers) -> list[str]:
        ids = [sample.ids for sample in answers.samples]
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def _targets(self, judged: Judged, answers: Answers, rewarded: Rewarded) -> tuple[Targets, dict[str, float]]:
        """Advantages, returns and importance weights; and what is to be watched of the batch."""
        import torch

        settings, mask = self.settings, judged.mask_BT
        kl_BT = maths.k1(judged.log_BT, judged.reference_BT)
        scores_B = torch.from_numpy(rewarded.total_N).float()
        rewards_BT = maths.token_rewards(scores_B, kl_BT, mask, self.beta.value)
        advantages_BT, returns_BT = maths.gae(rewards_BT, judged.values_BT, mask, settings.gamma, settings.lam)
        rollout_BT = torch.zeros_like(judged.log_BT)
        rollout_BT[mask > 0] = torch.tensor([log for sample in answers.samples for log in sample.log_probs])
        # In `sync` mode what samples is what is trained: nothing to weigh.
        weights_BT = mask
        if settings.mode == "one_step_async":
            weights_BT = maths.truncated_weights(judged.log_BT, rollout_BT, settings.max_weight) * mask
        drift_BT = (judged.log_BT - rollout_BT).abs()
        seen = {
            "kl": float((maths.k3(judged.log_BT, judged.reference_BT) * mask).sum(1).mean()),
            "kl_per_token": float(maths.mean(maths.k3(judged.log_BT, judged.reference_BT), mask)),
            "entropy": float(maths.mean(judged.entropy_BT, mask)),
            "explained_variance": float(maths.explained_variance(judged.values_BT, returns_BT, mask)),
            "value": float(maths.mean(judged.values_BT, mask)),
            "weight": float(maths.mean(weights_BT, mask)),
            "rollout_drift": float(maths.mean(drift_BT, mask)),
        }
        return Targets(maths.whiten(advantages_BT, mask), returns_BT, weights_BT), seen

    def _texts(self, answers: Answers, rewarded: Rewarded) -> dict[str, float]:
        texts = self._decoded(answers)
        lengths = [len(sample.ids) for sample in answers.samples]
        found = {
            "reward": float(rewarded.total_N.mean()),
            "opinion": float(rewarded.raw_N.mean()),
            "tokens": float(np.mean(lengths)),
            "all_tokens": float(sum(lengths)),
            "ended_share": float(np.mean([sample.ended for sample in answers.samples])),
            "distinct_1": distinct(texts, 1),
            "distinct_2": distinct(texts, 2),
        }
        return found | {name: float(amount.mean()) for name, amount in rewarded.faults.items()}

    # --- delivery ---------------------------------------------------------------------------------------------

    def _deliver(self, version: int) -> Proof | None:
        """The policy as it is now to every engine, and the proof that it arrived. Every worker."""
        weights = networks.policy_weights(self.learner.stepper.weights())
        sent = Delivery.of(weights, version) if self.first else None
        answered = self.rollouts.load(sent) if self.first else None
        if self.probe is None:
            self._make_probe()
        trainer = self.learner.log_probs(self.probe.rows)
        proof = None
        if self.first:
            self.sent_bytes = len(sent.payload)
            scored = self.rollouts.log_probs(self.probe.rows)
            proof = delivery.prove(
                answered, scored, trainer, self.probe, sent, "bfloat16" if self.settings.bf16 else "float32"
            )
        noise = self.probe.noise or (proof.engine if proof else 0.0)
        self.probe = Probe(self.probe.rows, self.probe.reference, trainer, noise)
        return proof

    def _make_probe(self) -> None:
        """What people answered to a few questions, and what the reference says of it: the same in every start."""
        picked = questions.spread(self.asked.learn, PROBE_ROWS, self.settings.seed)
        said = self.tokenizer([question.response for question in picked], add_special_tokens=False)["input_ids"]
        responses = [[*ids, self.tokenizer.eos_token_id][:PROBE_TOKENS] for ids in said]
        rows = tuple((question.ids, ids) for question, ids in zip(picked, responses, strict=True))
        reference = self.learner.log_probs(rows, reference=True)
        self.probe = Probe(rows, reference, self.learner.log_probs(rows))

    def _answer(self, asked: Sequence[Question], purpose: int) -> Answers:
        """Answers apart from learning; of the same question at every time from the same random numbers."""
        drawn = seeds(self.settings.seed, purpose, len(asked))
        return self.rollouts.end(self.rollouts.begin([question.ids for question in asked], drawn, self.how))

    # --- after a step -----------------------------------------------------------------------------------------

    def _after(self, step: int, entry: dict[str, Any], proof: Proof | None) -> None:
        settings, last = self.settings, step == self.settings.steps
        spent = self.clock.read()
        if self.asked.held_out and (step % settings.eval_every == 0 or last):
            entry |= self._look(step)
        if self.first:
            synced = {"sync_bytes": self.sent_bytes, "sync_error": proof.engine, "moved": proof.moved}
            self.hooks.entry({"step": step} | entry | synced | spent)
        hurry = self.hooks.hurry()
        if hurry or last or step % settings.save_every == 0:
            self.hooks.save()
        self.stopped = hurry
        self.clock.read()

    def _look(self, step: int) -> dict[str, float]:
        """How the policy answers the held-out questions; the best one so far is put aside."""
        asked, answers, rewarded = self.asked.held_out, None, None
        if self.first:
            answers = self._answer(asked, HELD_OUT)
            rewarded = self._reward(asked, answers)
        answers, rewarded = self.group.from_first((answers, rewarded) if self.first else None)
        rows = [(q.ids, sample.ids) for q, sample in zip(asked, answers.samples, strict=True)]
        judged = self.learner.judge(rows)
        kl_B = (maths.k3(judged.log_BT, judged.reference_BT) * judged.mask_BT).sum(1).numpy()
        if self.first:
            self.hooks.held_out(step, asked, self._decoded(answers), rewarded, kl_B)
        reward = float(rewarded.total_N.mean())
        if self.progress.best is None or reward > self.progress.best:
            self.progress.best, self.progress.best_step = reward, step
            self.hooks.best()
        found = self._texts(answers, rewarded) | {"kl": float(kl_B.mean())}
        return {f"held_out_{name}": value for name, value in found.items()}


def seeds(seed: int, purpose: int, count: int) -> list[int]:
    """Of every answer of a step (from 1) or another purpose, the same in every run."""
    # SeedSequence takes no negative numbers.
    found = np.random.SeedSequence([seed, purpose + 2**31]).generate_state(count, np.uint64)
    return [int(value >> 1) for value in found]


def distinct(texts: Sequence[str], n: int) -> float:
    """Different word n-grams over all word n-grams of a set of texts (distinct-n over the corpus); 0 without any."""
    grams = [tuple(words[at : at + n]) for words in map(str.split, texts) for at in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0
