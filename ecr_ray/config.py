"""One frozen dataclass a stage, filled from profile < --config file < command line.

The command line of every job is made from these classes: a field's name is its option, its docstring the
help, and the defaults shown are the ones in force under the chosen profile.
"""

import argparse
import dataclasses
import difflib
import inspect
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from ecr_ray.errors import UserError

T = TypeVar("T")
PipelineStage = Literal["prepare", "annotate", "score", "critic", "sft", "ppo", "recommender", "evaluate"]


# What a number may be, by the name of its setting, which means the same in every stage. Whole numbers that stand
# nowhere here count something there must be one of.
_FROM_ZERO = {
    *("canary_answers", "head_hidden", "knowledge_entities", "knowledge_triples", "max_failures", "max_requeues"),
    *("pair_prompts", "patience", "port", "related_min_count", "retries", "seed", "talks", "value_warmup"),
    "zero_stage",
    # Of an encoder: no LoRA; where there is no other way, `check_lora` refuses it.
    "lora_r",
}
_SHARES = {
    *("canary_share", "floor", "gamma", "grace_share", "gpu_memory_utilization", "hindsight_share"),
    *("lam", "max_failure_rate", "top_p", "valid_share", "warmup_share"),
}
_BELOW_ONE = {"dropout", "keep_above", "lora_dropout", "word_dropout"}
_ABOVE_ZERO = {
    *("clip", "cpus_per_engine", "cpus_per_worker", "epochs", "gradient_clip", "learning_rate", "max_weight"),
    *("object_store_gib", "time_budget_s", "top_p", "value_clip"),
}


class ConfigError(UserError):
    """A setting that cannot be used; the message says where it stands and what to write instead."""


@dataclass(frozen=True)
class PrepareConfig:
    """Read movie dialogues and write dialogues and turns as Parquet.

    Lines that cannot be used go to quarantine.jsonl with file, line, field and reason; the rest is read.
    Exit code 0: everything was read; 3: finished, but some lines are in quarantine.
    """

    profile: str = "tiny"
    """Set of defaults: tiny (laptop, bundled models), node (one GPU host), cluster, or a path to a .toml."""
    config: str | None = None
    """A .toml file whose [prepare] table overrides the profile."""
    input: str = "sample"
    """`sample` (embedded), `redial:train|valid|test` (below ECR_DATA_DIR), or a path or URI: ReDial .jsonl,
    the released .zip, turns as .jsonl or .parquet, or a directory of these."""
    output: str = "runs/prepare"
    """Directory (or URI) of the artifact."""
    limit: int | None = None
    """Stop after this many turns (whole dialogues)."""
    max_message_chars: int = 20_000
    """A dialogue with a longer message is put into quarantine."""
    number_rows: bool = False
    """Give turn rows that carry no turn_id one made of file name and line (the original system's files)."""
    overwrite: bool = False
    """Replace an artifact that was made with other settings."""


@dataclass(frozen=True)
class ScoreConfig:
    """Score the recommender's turns with LLM judges; resumable, and nothing is ever scored by default.

    Run it again after any crash with the same arguments: it goes on where it stopped.
    Exit code 0: done; 1: cannot run as asked; 3: done, but some input lines are in quarantine or some rows
    failed; 4: more rows failed than --max-failure-rate allows.
    """

    profile: str = "tiny"
    """Set of defaults: tiny (laptop, bundled models), node (one GPU host), cluster, or a path to a .toml."""
    config: str | None = None
    """A .toml file whose [score] and [judges.NAME] tables override the profile."""
    input: str = "sample"
    """`sample` (embedded), `redial:train|valid|test` (below ECR_DATA_DIR), or a path or URI: dialogues or
    turns as .jsonl, .parquet, ReDial's released .zip, or a directory of these."""
    output: str = "runs/score"
    """Directory (or URI) of the artifact: scores, targets, failures, agreement, summary.html, run.json."""
    judges: tuple[str, ...] = ("ecr-tiny-judge",)
    """Names of judges; see --list-judges."""
    rubric: Literal["ecr-ma", "ecr"] = "ecr-ma"
    """ecr-ma: empathy, informativeness, recommendation, engagement. ecr: emotional intensity and
    persuasiveness, logical persuasiveness, informativeness, lifelikeness."""
    limit: int | None = None
    """Score only this many turns (whole dialogues)."""
    engines: int | None = None
    """Engines a judge, instead of what its definition says."""
    tensor_parallel_size: int | None = None
    """GPUs an engine, instead of what the judge's definition says."""
    max_model_len: int | None = None
    """Longest prompt in tokens, instead of what the judge's definition says."""
    quantization: str | None = None
    """How the weights are stored (awq, gptq, ...), instead of what the judge's definition says."""
    batch_size: int = 256
    """Rows that travel together through Ray Data; a crash costs at most the batches under way."""
    concurrent_batches: int = 4
    """Batches an engine holds at once, so that it never waits for the next one."""
    side_by_side: Literal["auto", "yes", "no"] = "auto"
    """Judges at the same time; auto: if the cluster has room for all of them."""
    retries: int = 1
    """Further passes over rows that failed."""
    max_failure_rate: float = 0.01
    """The job fails when more than this share of the judgments of one judge fails."""
    seed: int = 0
    """For the engines' sampling and the bootstrap."""
    bootstrap: int = 1000
    """Resamples of dialogues behind every interval."""
    max_message_chars: int = 20_000
    """A dialogue with a longer message is put into quarantine."""
    number_rows: bool = False
    """Give turn rows that carry no turn_id one made of file name and line (the original system's files)."""
    overwrite: bool = False
    """Replace an artifact that was made with other settings."""
    list_judges: bool = False
    """Print the judges known under this profile, and stop."""
    plan_only: bool = False
    """Print what each judge needs and whether it fits, and stop."""


@dataclass(frozen=True)
class SftConfig:
    """Fine-tune a policy on dialogues and reviews: TRL's SFTTrainer in Ray Train workers, under DeepSpeed ZeRO.

    Run it again after any crash with the same arguments: it goes on from its last checkpoint.
    Exit code 0: done; 1: cannot run as asked; 3: done, but some input lines are in quarantine.
    """

    profile: str = "tiny"
    """Set of defaults: tiny (laptop, bundled models), node (one GPU host), cluster, or a path to a .toml."""
    config: str | None = None
    """A .toml file whose [sft] table overrides the profile."""
    recipes: tuple[str, ...] = ("dialogue",)
    """What to learn from, one or more of: dialogue (context -> the recommender's reply), ecr (film, facts and first
    sentence -> an emotional review), judge (people's ratings below ECR_DATA_DIR -> the digits of a judge)."""
    input: str = "sample"
    """Dialogues: `sample` (embedded), `redial:train|valid|test` (below ECR_DATA_DIR), or a path or URI of dialogues or
    turns as .jsonl, .parquet, ReDial's released .zip, or a directory of these."""
    valid_input: str | None = None
    """Dialogues to validate on, in the same forms; by default --valid-share of the input, whole dialogues."""
    reviews: str = "sample"
    """ecr, grounded: `sample` (embedded) or a .jsonl or .csv file with title, content, rating and movie."""
    knowledge: str = "sample"
    """ecr, grounded: `sample` (the embedded films), `redial` (the DBpedia graph in ECR_DATA_DIR/redial_kg), or a .json
    file of films in the sample's form."""
    grounded: bool = False
    """dialogue: tell in the prompt which film the reply names, what the seeker feels (where the input is annotated),
    facts of the film from --knowledge, and a sentence of a review from --reviews."""
    rated_dialogues: Literal["all", "first-half", "second-half"] = "all"
    """judge: which rated dialogues to learn from; two judges that learn from a half each share no rating."""
    valid_share: float = 0.05
    """Share of dialogues, and of films with all their reviews, that is held out."""
    base: str = "tiny:0"
    """The model to start from: `tiny:SEED` (random weights), `ecr-tiny-chat`, a directory, or a hub id."""
    adapter: str | None = None
    """lora: a directory with an adapter of the same base to go on from."""
    pad_token: str | None = None
    """A token of the base model to pad with, where its tokenizer has none of its own; never the end-of-turn token."""
    output: str = "runs/sft"
    """Directory of the artifact, shared by all nodes: model/, curve.parquet, summary.html, run.json."""
    method: Literal["full", "lora"] = "full"
    """Train all weights, or a LoRA adapter."""
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Modules that get an adapter."""
    learn: Literal["answers", "all"] = "answers"
    """answers: what the recommender says, with the end of its turn. all: every token; a model from scratch learns the
    language first."""
    max_length: int = 512
    """Tokens a row; longer conversations become several windows, shorter ones are packed together."""
    packing: bool = True
    """Put several conversations into one row; they do not see each other."""
    epochs: float = 3.0
    max_steps: int | None = None
    """Stop after this many steps, whatever --epochs says."""
    batch: int = 16
    """Rows a step, over all workers."""
    micro_batch: int = 1
    """Rows that a worker computes at once."""
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_share: float = 0.03
    weight_decay: float = 0.1
    gradient_clip: float = 1.0
    workers: int = 1
    cpus_per_worker: float = 1.0
    threads_per_worker: int | None = None
    """Threads of a CPU worker; by default the machine's cores shared among the workers."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    zero_stage: Literal[0, 1, 2, 3] = 1
    """What DeepSpeed shares among the workers: 1 optimizer, 2 and gradients, 3 and weights; 0: no DeepSpeed."""
    bf16: bool = False
    """Compute in bfloat16."""
    gradient_checkpointing: bool = False
    save_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """How the weights are stored."""
    eval_every: int = 100
    """Steps between two looks at the held-out loss; the weights with the lowest are the result."""
    save_every: int = 100
    """Steps between two checkpoints; a crash costs at most so many. A multiple of --eval-every."""
    log_every: int = 10
    max_failures: int = 3
    """Deaths of workers after which the run gives up."""
    limit: int | None = None
    """Use only this many dialogues."""
    review_filters: Literal["long", "short"] = "long"
    """ecr: which reviews are kept, as in the ECR paper for its large (120-300 words, 5 votes) and its small model
    (20-150 words, 1 vote). Both: rated 10, at most 25 a film, in the first person, not repetitive."""
    knowledge_triples: int = 2
    """ecr: facts of the graph a prompt."""
    knowledge_entities: int = 4
    """ecr: related names a prompt."""
    related_min_count: int = 20
    """ecr: how often a name must occur in all reviews to be a related one."""
    seed: int = 0
    max_message_chars: int = 20_000
    """A dialogue with a longer message is put into quarantine."""
    overwrite: bool = False
    """Replace an artifact that was made with other settings."""


@dataclass(frozen=True)
class CriticConfig:
    """Train a critic: an encoder with a head an aspect that foresees what judges, and seekers, say of a reply.

    Ray Train workers under DeepSpeed ZeRO, their rows streamed by Ray Data. Run it again after any crash with the same
    arguments, with as many workers as you like: it goes on from its last checkpoint.
    Exit code 0: done; 1: cannot run as asked; 3: done, but some turns could not be used.
    """

    profile: str = "tiny"
    """Set of defaults: tiny (laptop, bundled models), node (one GPU host), cluster, or a path to a .toml."""
    config: str | None = None
    """A .toml file whose [critic] table overrides the profile; the best.toml of a search is one."""
    learn: Literal["scores", "reactions"] = "scores"
    """scores: a critic. reactions: a reaction reader, which learns from people's ratings below ECR_DATA_DIR how content
    a seeker is, from the turn and what the seeker said next; a critic's hindsight comes from it."""
    targets: tuple[str, ...] = ("runs/score",)
    """Artifacts of jobs/score.py, one or more, all of one rubric; splits are theirs."""
    reader: str = "none"
    """Hindsight: a reaction reader that labels every turn which has a next one, by name or directory; none: no
    hindsight."""
    hindsight_share: float = 0.5
    """How much hindsight counts in `overall` beside the judges' score, where both are known."""
    people: Literal["auto", "yes", "no"] = "auto"
    """Put people's own ratings (below ECR_DATA_DIR) in place of the reader's, and measure on dialogues kept for that;
    auto: if they are there."""
    output: str = "runs/critic"
    """Directory of the artifact, shared by all nodes: model/, targets.parquet, predictions.parquet, curve.parquet,
    summary.html, plots/, run.json."""
    encoder: str = "minilm"
    """`minilm` (comes as a package), a directory, or a hub id of a Hugging Face encoder."""
    pooling: Literal["mean", "cls"] = "mean"
    head_hidden: int = 0
    """Units of a layer between the encoder and the outputs; 0: none."""
    dropout: float = 0.1
    max_length: int = 128
    """Tokens that the encoder reads: the response whole, and as much of the dialogue before it as fits."""
    train_layers: int | None = None
    """Train only the encoder's last layers, so many; by default all."""
    train_embeddings: bool = True
    loss: Literal["beta-nll", "mse"] = "beta-nll"
    """beta-nll: a row's own doubt weighs its error; mse: every error counts alike."""
    pairwise_weight: float = 0.0
    """Adds a ranking loss: of two rows the better should score higher."""
    pairwise_margin: float = 0.05
    """Targets closer than this are not a pair."""
    judge_noise: float = 0.15
    """Standard deviation of one judge's score that is assumed; targets count by the judges that spoke and how far they
    were apart."""
    overall_weight: float = 2.0
    """How much the head `overall` counts in the loss; every aspect counts 1."""
    hindsight_weight: float = 1.0
    """How much each head of hindsight (reaction, liked) counts in the loss."""
    valid_share: float = 0.1
    """Share of dialogues held out where the targets have no split `valid`."""
    epochs: float = 2.0
    max_steps: int | None = None
    """Stop after this many steps, whatever --epochs says."""
    batch: int = 32
    """Rows a step, over all workers."""
    micro_batch: int = 8
    """Rows that a worker computes at once."""
    learning_rate: float = 1e-4
    warmup_share: float = 0.06
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    workers: int = 1
    cpus_per_worker: float = 1.0
    threads_per_worker: int | None = None
    """Threads of a CPU worker; by default the machine's cores shared among the workers."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    zero_stage: Literal[0, 1, 2, 3] = 1
    """What DeepSpeed shares among the workers: 1 optimizer, 2 and gradients, 3 and weights; 0: no DeepSpeed."""
    bf16: bool = False
    """Compute in bfloat16; weights and optimizer stay float32."""
    save_dtype: Literal["float32", "bfloat16", "float16"] = "float16"
    """How the weights are stored."""
    eval_every: int = 100
    """Steps between two looks at the held-out rows; the weights that miss them least are the result."""
    eval_tokens: int = 8192
    """Tokens a batch when nothing is learnt."""
    patience: int = 0
    """Stop when so many looks in a row brought nothing better; 0: never."""
    save_every: int = 100
    """Steps between two checkpoints; a crash costs at most so many."""
    log_every: int = 10
    max_failures: int = 3
    """Deaths of workers after which the run gives up."""
    predictors: int = 1
    """Actors that predict in parallel."""
    bootstrap: int = 1000
    """Resamples of dialogues behind every interval."""
    limit: int | None = None
    """Use only this many turns of the split `train`."""
    seed: int = 0
    overwrite: bool = False
    """Replace an artifact that was made with other settings."""


@dataclass(frozen=True)
class TuneConfig:
    """Search a critic's settings with Ray Tune: Optuna proposes, ASHA stops what falls behind.

    A trial is a Ray Train run. What the trials share stands in the table [critic] of the profile or --config file,
    what is searched in its table [space], as in `learning_rate = {low = 1e-5, high = 1e-3, log = true}` or
    `pooling = ["mean", "cls"]`.
    Run it again after any crash with the same arguments: finished trials stay, unfinished ones go on.
    The result is best.toml: `python jobs/train_critic.py --config runs/tune/best.toml`.
    Exit code 0: done; 1: cannot run as asked; 3: done, but some trials failed.
    """

    profile: str = "tiny"
    """Set of defaults: tiny (laptop, bundled models), node (one GPU host), cluster, or a path to a .toml."""
    config: str | None = None
    """A .toml file whose [tune], [critic] and [space] tables override the profile."""
    targets: tuple[str, ...] | None = None
    """Artifacts of jobs/score.py, instead of what [critic] says."""
    output: str = "runs/tune"
    """Directory of the artifact, shared by all nodes: best.toml, trials.parquet, curves.parquet, summary.html,
    tensorboard/, run.json."""
    trials: int = 16
    concurrent: int | None = None
    """Trials at the same time; by default as many as the cluster's CPUs or GPUs have room for."""
    time_budget_s: float | None = None
    """Stop the search after so long."""
    stop_early: bool = True
    """Stop trials that fall behind the others (ASHA)."""
    grace_share: float = 0.2
    """No trial is stopped before this share of its rows."""
    reduction: int = 3
    """Of the trials that get as far, one in so many goes on."""
    smoke: bool = False
    """Two trials of a few steps, to see that it runs."""
    track: Literal["none", "wandb", "mlflow"] = "none"
    """Follow the trials with Weights & Biases (offline unless WANDB_MODE says otherwise) or MLflow (into mlruns/ unless
    MLFLOW_TRACKING_URI says otherwise) as well; their packages are not installed by default. TensorBoard's files are
    always written."""
    seed: int = 0
    overwrite: bool = False
    """Replace an artifact that was made with other settings."""


@dataclass(frozen=True)
class EmotionConfig:
    """Train a classifier of the nine emotions of a message, on GoEmotions; an encoder with a head an emotion.

    Ray Train workers under DeepSpeed ZeRO, their rows streamed by Ray Data. Run it again after any crash with the same
    arguments: it goes on from its last checkpoint.
    Exit code 0: done; 1: cannot run as asked.
    """

    profile: str = "tiny"
    """Set of defaults: tiny (laptop, bundled models), node (one GPU host), cluster, or a path to a .toml."""
    config: str | None = None
    """A .toml file whose [emotion] table overrides the profile."""
    input: str = "goemotions"
    """`goemotions` (below ECR_DATA_DIR), or a directory with train.tsv, dev.tsv and test.tsv in its form: text, numbers
    of GoEmotions' labels with commas, tabs between."""
    output: str = "runs/emotion"
    """Directory of the artifact, shared by all nodes: model/, predictions.parquet, curve.parquet, summary.html,
    run.json."""
    encoder: str = "minilm"
    """`minilm` (comes as a package), a directory, or a hub id of a Hugging Face encoder."""
    lora_r: int = 0
    """Rank of adapters that learn in place of the encoder's own weights; 0: its weights learn."""
    pooling: Literal["mean", "cls"] = "mean"
    head_hidden: int = 0
    """Units of a layer between the encoder and the outputs; 0: none."""
    dropout: float = 0.1
    max_length: int = 64
    """Tokens that are read of a message; of a longer one its end."""
    train_layers: int | None = None
    """Train only the encoder's last layers, so many; by default all."""
    train_embeddings: bool = True
    epochs: float = 3.0
    max_steps: int | None = None
    """Stop after this many steps, whatever --epochs says."""
    batch: int = 32
    """Rows a step, over all workers."""
    micro_batch: int = 32
    """Rows that a worker computes at once."""
    learning_rate: float = 5e-5
    warmup_share: float = 0.06
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    workers: int = 1
    cpus_per_worker: float = 1.0
    threads_per_worker: int | None = None
    """Threads of a CPU worker; by default the machine's cores shared among the workers."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    zero_stage: Literal[0, 1, 2, 3] = 1
    """What DeepSpeed shares among the workers: 1 optimizer, 2 and gradients, 3 and weights; 0: no DeepSpeed."""
    bf16: bool = False
    """Compute in bfloat16; weights and optimizer stay float32."""
    save_dtype: Literal["float32", "bfloat16", "float16"] = "float16"
    """How the weights are stored."""
    eval_every: int = 200
    """Steps between two looks at the held-out rows; the weights that miss them least are the result."""
    eval_tokens: int = 8192
    """Tokens a batch when nothing is learnt."""
    patience: int = 0
    """Stop when so many looks in a row brought nothing better; 0: never."""
    save_every: int = 200
    """Steps between two checkpoints; a crash costs at most so many."""
    log_every: int = 20
    max_failures: int = 3
    """Deaths of workers after which the run gives up."""
    bootstrap: int = 1000
    """Resamples of messages behind every interval."""
    limit: int | None = None
    """Learn from only this many messages."""
    seed: int = 0
    overwrite: bool = False
    """Replace an artifact that was made with other settings."""


@dataclass(frozen=True)
class AnnotateConfig:
    """Read the emotions of every message of whole dialogues, and write the dialogues with them.

    By a classifier, or by any LLM judge through the scoring engine, which answers a digit an emotion. Run it again
    after any crash with the same arguments: it goes on where it stopped. The result is an input for every other job.
    Exit code 0: done; 1: cannot run as asked; 3: done, but some input lines are in quarantine or some messages could
    not be read; 4: more messages failed than --max-failure-rate allows.
    """

    profile: str = "tiny"
    """Set of defaults: tiny (laptop, bundled models), node (one GPU host), cluster, or a path to a .toml."""
    config: str | None = None
    """A .toml file whose [annotate] and [judges.NAME] tables override the profile."""
    input: str = "sample"
    """`sample` (embedded), `redial:train|valid|test` (below ECR_DATA_DIR), or a path or URI of dialogues as .jsonl,
    .parquet, ReDial's released .zip, or a directory of these."""
    output: str = "runs/annotate"
    """Directory (or URI) of the artifact: dialogues/, turns/, emotions.parquet, failures.parquet, run.json."""
    annotator: str = "ecr-tiny-emotion"
    """A classifier (a bundled one by its name, or a directory that jobs/train_emotion.py made), or the name of an LLM
    judge (see jobs/score.py --list-judges)."""
    keep_above: float = 0.1
    """Emotions of at most this probability are not written into a dialogue; emotions.parquet has all of them."""
    labelled: Literal["keep", "replace"] = "keep"
    """Messages that carry emotions in the input: keep these, or write the annotator's."""
    limit: int | None = None
    """Annotate only this many dialogues."""
    batch_size: int = 256
    """Messages that travel together through Ray Data; a crash costs at most the batches under way."""
    concurrent_batches: int = 4
    """Batches an engine holds at once, so that it never waits for the next one."""
    engines: int | None = None
    """Actors (or engines) at once, instead of what the judge's definition says; 1 for a classifier."""
    retries: int = 1
    """Further passes over messages that failed."""
    max_failure_rate: float = 0.01
    """The job fails when more than this share of the messages fails."""
    seed: int = 0
    """For an LLM's engine."""
    max_message_chars: int = 20_000
    """A dialogue with a longer message is put into quarantine."""
    overwrite: bool = False
    """Replace an artifact that was made with other settings."""


@dataclass(frozen=True)
class RecommenderConfig:
    """Train a recommender: who named which films, with what feeling, in what words -> a ranking of the catalogue.

    Ray Train workers; sentences become vectors by Ray actors once. Beside it stand popularity, neighbours, EASE and
    text similarity. Run it again after any crash with the same arguments: it goes on from its last checkpoint.
    Exit code 0: done; 1: cannot run as asked; 3: done, but some input lines are in quarantine.
    """

    profile: str = "tiny"
    """Set of defaults: tiny (laptop, bundled models), node (one GPU host), cluster, or a path to a .toml."""
    config: str | None = None
    """A .toml file whose [recommender] table overrides the profile."""
    input: str = "sample"
    """Dialogues: `sample` (embedded), `redial:train|valid|test` (below ECR_DATA_DIR), or a path or URI of whole
    dialogues; what jobs/annotate.py wrote has emotions."""
    valid_input: str | None = None
    """Dialogues to choose the weights by, in the same forms; by default the split `valid`, or --valid-share."""
    test_input: str | None = None
    """Dialogues to measure on, once, at the end; by default those of the split `test`."""
    valid_share: float = 0.1
    """Share of dialogues held out where the input has no split `valid`."""
    catalogue: str = "sample"
    """What can be recommended: `sample` (the embedded films), `redial` (with the DBpedia graph in
    ECR_DATA_DIR/redial_kg), or a .csv, .parquet or .json file of your own."""
    output: str = "runs/recommender"
    """Directory of the artifact, shared by all nodes: model/, curve.parquet, ranks.parquet, summary.html, run.json."""
    encoder: str = "minilm"
    """What turns sentences into vectors: `minilm` (comes as a package), a directory, or a hub id."""
    max_length: int = 64
    """Tokens that are read of a speaker's turn; of a longer one its end."""
    width: int = 192
    """Of the items' vectors."""
    dropout: float = 0.5
    word_dropout: float = 0.3
    """Share of word pieces that are not heard in training."""
    without: tuple[str, ...] = ()
    """Parts that are left out: emotions, graph, content, text, co-occurrence, repetition, weights (of feedback)."""
    ablate: tuple[str, ...] = ()
    """Parts that are each left out of one more network (or put in, where --without leaves them out), trained on the
    same data: what a part is worth."""
    members: int = 1
    """Networks that rank together, trained alike from different seeds."""
    ridge: float = 200.0
    """Of EASE, which says what is named together."""
    epochs: float = 5.0
    max_steps: int | None = None
    """Stop after this many steps, whatever --epochs says."""
    batch: int = 256
    """Turns a step, over all workers."""
    micro_batch: int = 256
    """Turns that a worker computes at once."""
    learning_rate: float = 1.5e-3
    warmup_share: float = 0.06
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    workers: int = 1
    cpus_per_worker: float = 1.0
    threads_per_worker: int | None = None
    """Threads of a CPU worker; by default the machine's cores shared among the workers."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    zero_stage: Literal[0, 1, 2] = 0
    """What DeepSpeed shares among the workers: 1 optimizer, 2 and gradients; 0: no DeepSpeed."""
    embedders: int = 1
    """Actors that turn sentences into vectors in parallel."""
    eval_every: int = 50
    """Steps between two looks at the held-out turns; the weights with the lowest loss are the result."""
    patience: int = 0
    """Stop when so many looks in a row brought nothing better; 0: never."""
    save_every: int = 100
    """Steps between two checkpoints; a crash costs at most so many."""
    log_every: int = 20
    max_failures: int = 3
    """Deaths of workers after which the run gives up."""
    bootstrap: int = 1000
    """Resamples of dialogues behind every interval."""
    limit: int | None = None
    """Learn from only this many dialogues."""
    seed: int = 0
    max_message_chars: int = 20_000
    """A dialogue with a longer message is put into quarantine."""
    overwrite: bool = False
    """Replace an artifact that was made with other settings."""


@dataclass(frozen=True)
class PpoConfig:
    """Reinforce a policy with PPO against a critic, and prove that it learns.

    Rollout actors sample answers to real prompts, the critic scores them, Ray Train workers under DeepSpeed ZeRO learn,
    and every new version's way to the rollout actors is proven. Run it again after any crash with the same arguments:
    it goes on from its last checkpoint.
    Exit code 0: done; 1: cannot run as asked; 3: done, but some input lines are in quarantine.
    """

    profile: str = "tiny"
    """Set of defaults: tiny (laptop, bundled models), node (one GPU host), cluster, or a path to a .toml."""
    config: str | None = None
    """A .toml file whose [ppo] table overrides the profile."""
    input: str = "sample"
    """Dialogues whose turns are prompts: `sample` (embedded), `redial:train|valid|test` (below ECR_DATA_DIR), or a path
    or URI of dialogues or turns as .jsonl, .parquet, ReDial's released .zip, or a directory of these."""
    valid_input: str | None = None
    """Dialogues for the held-out prompts, in the same forms; by default --valid-share of the input, whole dialogues."""
    valid_share: float = 0.2
    base: str = "ecr-tiny-chat"
    """The fine-tuned policy to start from, which is also the reference: a bundled model, a directory (that of an
    adapter is merged into its base first), or a hub id."""
    pad_token: str | None = None
    """A token of the base model to pad with, where its tokenizer has none of its own; never the end-of-turn token."""
    output: str = "runs/ppo"
    """Directory of the artifact, shared by all nodes: model/ (servable), curve.parquet, samples.parquet, summary.html,
    run.json."""
    method: Literal["full", "lora"] = "lora"
    """Train a LoRA adapter, or all weights (small models only: all of them travel to the rollout actors)."""
    lora_r: int = 16
    lora_alpha: int = 32
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Modules that get an adapter."""
    reward: str = "critic"
    """`critic`, or module:function that takes dialogues (lists of role and text) and responses and gives numbers."""
    critic: str = "ecr-tiny-critic"
    """A bundled critic, or the directory of one."""
    aspects: tuple[str, ...] = ("overall=1",)
    """The critic's heads that count, each with its weight."""
    doubt: float = 0.0
    """Take so many of the critic's own standard deviations off each aspect: a lower confidence bound."""
    scale_samples: int = 256
    """Answers of the policy before PPO that fix what a reward of 0, and of 1, is."""
    no_end_cost: float = 1.0
    """Taken off the scaled reward of an answer that does not end by itself."""
    unknown_title_cost: float = 0.5
    """The same for every title that is not in the catalogue."""
    repetition_cost: float = 1.0
    """The same times the share of three-word sequences that an answer has said before."""
    grounded: bool = False
    """Tell in the prompt which film to name (the one of the human's turn), what the seeker feels (where the input is
    annotated), and what --knowledge and --reviews say of it. Use it with a policy that was fine-tuned so."""
    knowledge: str = "sample"
    """grounded: `sample` (the embedded films), `redial` (the DBpedia graph in ECR_DATA_DIR/redial_kg), or a .json file
    of films in the sample's form."""
    reviews: str = "sample"
    """grounded: `sample` (embedded), none, or a .jsonl or .csv file with title, content, rating and movie."""
    missing_film_cost: float = 1.0
    """grounded: the same for an answer that does not name the film."""
    titles: str = "none"
    """The catalogue: `sample` (the embedded films), `redial` (below ECR_DATA_DIR), a .json file of films, or none."""
    beta: float = 0.05
    """Weight of the KL from the policy before PPO, per token, in the reward."""
    target_kl: float | None = None
    """Steer beta so that an answer's KL stays near so many nats."""
    kl_horizon: int = 2000
    """Answers over which beta may about double."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What samples: vLLM (adapters only), or transformers (faster for tiny models on a CPU)."""
    engines: int = 1
    """Rollout actors."""
    cpus_per_engine: float = 1.0
    gpus_per_engine: float = 1.0
    """Where there are GPUs; less than 1 shares one."""
    vllm: Mapping[str, Any] = field(default_factory=dict)
    """Further vLLM engine arguments (in a profile or --config file)."""
    mode: Literal["sync", "one_step_async"] = "sync"
    """one_step_async: sample for the next step while learning, with truncated importance weights."""
    max_weight: float = 2.0
    """Importance weights are cut here."""
    rollout_role: str | None = None
    """Put rollout actors on nodes with this label `role` (see slurm_ray_start.sh --roles)."""
    train_role: str | None = None
    """The same for the workers."""
    max_prompt: int = 256
    """Tokens of a prompt; older messages are left out to fit."""
    max_new_tokens: int = 64
    temperature: float = 1.0
    steps: int = 200
    batch: int = 64
    """Answers a step."""
    minibatch: int = 32
    """Answers an optimizer step, over all workers."""
    micro_batch: int = 8
    """Answers that a worker computes at once."""
    epochs: int = 2
    """Passes over a step's answers."""
    learning_rate: float = 3e-4
    """Falls in a line to 0 over the run."""
    value_warmup: int = 5
    """First steps, in which only the value learns."""
    clip: float = 0.2
    value_clip: float = 0.2
    value_weight: float = 0.1
    gamma: float = 1.0
    lam: float = 0.95
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    workers: int = 1
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 1.0
    """Where there are GPUs; less than 1 shares one."""
    threads_per_worker: int | None = None
    """Threads of a CPU worker; by default the machine's cores shared among the workers."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    zero_stage: Literal[0, 1, 2, 3] = 2
    """What DeepSpeed shares among the workers: 1 optimizer, 2 and gradients, 3 and weights; 0: no DeepSpeed."""
    bf16: bool = False
    """Compute in bfloat16; what learns stays float32."""
    gradient_checkpointing: bool = False
    save_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """How the result's weights are stored."""
    eval_every: int = 20
    """Steps between two looks at the held-out prompts; the policy with the highest reward there is the result."""
    eval_prompts: int = 128
    save_every: int = 100
    """Steps between two checkpoints; a crash costs at most so many."""
    deadline_s: float = 600.0
    """Longest time that any answer of an actor may take."""
    max_failures: int = 3
    """Deaths of workers, and of each rollout actor, after which the run gives up."""
    limit: int | None = None
    """Use only this many prompts."""
    seed: int = 0
    max_message_chars: int = 20_000
    """A dialogue with a longer message is put into quarantine."""
    overwrite: bool = False
    """Replace an artifact that was made with other settings."""


@dataclass(frozen=True)
class ServeConfig:
    """Serve recommendations and a conversation partner: an HTTP API, OpenAI-compatible too, and a page to talk to it.

    Stays up until it is stopped (Ctrl-C, or SIGTERM). `serve run ecr_ray.serving.app:app` does the same, with these
    settings as key=value. Exit code 0: stopped; 1: cannot run as asked.
    """

    profile: str = "tiny"
    """Set of defaults: tiny (laptop, bundled models), node (one GPU host), cluster, or a path to a .toml."""
    config: str | None = None
    """A .toml file whose [serve] table overrides the profile."""
    host: str = "127.0.0.1"
    """Where it listens; 0.0.0.0 for everybody who can reach this machine, which asks for keys."""
    port: int = 8000
    front: Literal["haproxy", "proxy"] = "haproxy"
    """What takes connections: the HAProxy that comes with Ray, or Serve's own proxy, which costs more time. Where
    Serve is up already, what is in front of it stays."""
    open: bool = False
    """Answer requests from this machine without a key. Not behind a proxy: to it all requests come from here."""
    output: str = "runs/serve"
    """Directory, shared by all nodes: keys.json, adapters/, feedback/, adapters.json (what is live, and why)."""
    base: str = "ecr-tiny-chat"
    """The policy's base model: bundled, a directory, or a hub id."""
    adapter: str = "ecr-tiny-ppo"
    """Adapter that is live at the first start: bundled, or a directory; empty: the base model as it is."""
    recommender: str = "ecr-tiny-recommender"
    """Bundled, or the model/ of jobs/train_recommender.py."""
    emotions: str = "ecr-tiny-emotion"
    """Who reads emotions: bundled, or the model/ of jobs/train_emotion.py."""
    critic: str = "ecr-tiny-critic"
    """Who rates answers, for best of n and the floor: bundled, or the model/ of jobs/train_critic.py; empty: nobody."""
    aspects: tuple[str, ...] = ("overall",)
    """The critic's heads that count, with weights if they differ: overall=1."""
    floor: float | None = None
    """Quality floor, 0 to 1: an answer that the critic rates lower gives way to one made of the recommendation."""
    grounded: bool = False
    """Tell the policy which film to name, with facts and a review (for one that was trained with --grounded)."""
    knowledge: str = "sample"
    """grounded: films and facts, as for jobs/sft.py."""
    reviews: str = "sample"
    """grounded: reviews, as for jobs/sft.py; `none`: none."""
    temperature: float = 0.7
    """Of answers that ask for no other."""
    max_tokens: int = 64
    """Of answers that ask for no other."""
    max_model_len: int = 1024
    """Tokens of a prompt and its answer; older messages of a dialogue are left out to fit."""
    device: Literal["cpu", "gpu"] = "cpu"
    """What the policy's engine runs on."""
    dtype: str = "float32"
    max_num_seqs: int = 64
    """Answers that an engine writes at once."""
    tensor_parallel_size: int = 1
    """GPUs an engine."""
    max_loras: int = 4
    """Adapters that answer side by side."""
    max_lora_rank: int = 16
    engine: Mapping[str, Any] = field(default_factory=dict)
    """Further vLLM engine arguments (in a file only)."""
    policy_in: Literal["ingress", "replicas"] = "ingress"
    """Where the policy's engine is: with each replica of the ingress, a process less on the way of a word; or in
    replicas of its own, which scale apart from the ingress (on several nodes, or GPUs)."""
    policy_replicas: tuple[int, int] = (1, 1)
    """--policy-in replicas: fewest and most; between them Serve scales by the number of requests. Likewise below."""
    recommender_replicas: tuple[int, int] = (1, 1)
    critic_replicas: tuple[int, int] = (1, 1)
    ingress_replicas: tuple[int, int] = (1, 1)
    requests_per_minute: int = 600
    """A key; as many may come in one burst. Replicas of the ingress share it evenly; likewise below."""
    requests_at_once: int = 64
    """A key."""
    waiting: int = 128
    """Requests that may wait at each engine, and before replicas of the policy as many again; more are turned away."""
    timeout_s: float = 60.0
    """The longest that an answer may take."""
    body_timeout_s: float = 10.0
    """The longest that a request's body may take to arrive."""
    max_body_bytes: int = 262_144
    max_messages: int = 100
    """Of a dialogue."""
    max_message_chars: int = 4_000
    canary_share: float = 0.1
    """A new adapter gets this share of the requests that name none, until it is promoted or rolled back."""
    canary_answers: int = 50
    """So many answers decide: rolled back if they fail, or the critic rates them lower than those of the live one."""
    seed: int = 0
    build: str | None = None
    """Write a config for `serve deploy` to this .yaml file, and stop."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Set systems side by side on the same prompts, and say what can be known of each, with intervals.

    People, policies, the best of several answers, endpoints and files of replies; text measures, judges one by one and
    pair by pair, talks with a simulated user; one report. Run it again after any crash with the same arguments: it
    goes on where it stopped. `--compare A B` sets two finished runs side by side.
    Exit code 0: done; 1: cannot run as asked; 3: done, but some figures are withheld, or input lines in quarantine.
    """

    profile: str = "tiny"
    """Set of defaults: tiny (laptop, bundled models), node (one GPU host), cluster, or a path to a .toml."""
    config: str | None = None
    """A .toml file whose [evaluate] and [judges.NAME] tables override the profile."""
    input: str = "sample"
    """Dialogues whose turns are prompts: `sample` (embedded), `redial:test` (below ECR_DATA_DIR), or a path or URI of
    dialogues or turns as .jsonl, .parquet, ReDial's released .zip, or a directory of these."""
    split: Literal["test", "valid", "train", "all"] = "test"
    """Whose dialogues."""
    output: str = "runs/evaluate"
    """Directory of the artifact, shared by all nodes: report.html, report.md, figures.json, replies.parquet,
    judgments.parquet, values.parquet, run.json."""
    systems: tuple[str, ...] = ("human", "sft=ecr-tiny-chat", "best-of-8=best-of-8:ecr-tiny-chat", "ppo=ecr-tiny-ppo")
    """NAME=WHAT each. WHAT is a model or adapter (bundled, directory or hub id), best-of-N:MODEL (the critic chooses),
    an OpenAI-compatible endpoint (http://host:port/v1#model), or a .jsonl or .parquet file with turn_id and text.
    `human` is what people answered."""
    baseline: str = "sft"
    """The system that all others are compared with, and whose words' likelihood is the perplexity."""
    prompts: int = 200
    """Turns that are answered: of as many dialogues as there are."""
    critic: str = "ecr-tiny-critic"
    """Chooses for best-of-N, and is shown as what PPO climbed; none: no critic."""
    judges: tuple[str, ...] = ("ecr-tiny-judge-a", "ecr-tiny-judge-b")
    """Names of judges; see jobs/score.py --list-judges. Those that taught the critic are marked as not independent."""
    rubric: Literal["ecr", "ecr-ma"] = "ecr"
    """ecr: the paper's five measures. ecr-ma: empathy, informativeness, recommendation, engagement."""
    pairs: Literal["all", "baseline", "none"] = "all"
    """Which systems the judges also compare two by two, in both orders."""
    pair_prompts: int = 100
    """Prompts on which they do."""
    titles: str = "none"
    """The catalogue: `sample` (the embedded films), `redial` (below ECR_DATA_DIR), a .json file of films, or none."""
    emotions: str = "ecr-tiny-emotion"
    """Reads feelings: a bundled classifier or a directory of one; none: no emotion alignment."""
    recommender: str = "ecr-tiny-recommender"
    """For the talks, and its own measures in the report; none: neither."""
    talks: int = 0
    """Talks of a simulated user with the recommender, and with one that names popular films."""
    talk_turns: int = 8
    """Longest talk."""
    talk_films: int = 3
    """Films that are recommended a turn."""
    talks_at_once: int = 16
    """Talks that an actor holds at the same time where an endpoint plays the user or is the system."""
    talk_url: str = ""
    """Talk to a served system instead of the recommender alone: its address, as in http://127.0.0.1:8000."""
    talk_key_env: str = "ECR_API_KEY"
    """Environment variable that holds the served system's key."""
    user_url: str = ""
    """An OpenAI-compatible endpoint that plays the user, as in http://host:port/v1#model; by default rules do."""
    user_key_env: str = ""
    """Environment variable that holds that endpoint's key; empty: it has none."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What samples."""
    engines: int = 1
    """Rollout actors."""
    cpus_per_engine: float = 1.0
    device: Literal["auto", "cpu", "gpu"] = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    vllm: Mapping[str, Any] = field(default_factory=dict)
    """Further vLLM engine arguments (in a profile or --config file)."""
    pad_token: str | None = None
    """A token of the models to pad with, where their tokenizer has none of its own; never the end-of-turn token."""
    max_prompt: int = 192
    """Tokens of a prompt; older messages are left out to fit."""
    max_new_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    bootstrap: int = 1000
    """Resamples of dialogues behind every interval."""
    seed: int = 0
    max_message_chars: int = 20_000
    """A dialogue with a longer message is put into quarantine."""
    overwrite: bool = False
    """Replace an artifact that was made with other settings."""
    retry_failures: bool = False
    """Ask again what got no answer in the finished run: endpoints' replies, judgments, talks. The rest stays."""
    compare: tuple[str, ...] = ()
    """Two directories of finished runs to set side by side; writes compare.html and compare.md to --output."""


@dataclass(frozen=True)
class PipelineConfig:
    """Run everything from dialogues to a report: prepare, annotate, score, critic, sft, ppo, recommender, evaluate.

    Every stage is a job of its own, with its settings from profile and --config file, and reads what the stages before
    it wrote. A plan is shown first; what is up to date is not run again. Run it again after any crash with the same
    arguments: it goes on where it stopped.
    Exit code 0: done; 1: cannot run as asked; 3: done, but some input lines are in quarantine or some rows failed;
    75: stopped before the time limit; else that of the stage that failed.
    """

    profile: str = "tiny"
    """Set of defaults: tiny (laptop, bundled models), node (one GPU host), cluster, or a path to a .toml."""
    config: str | None = None
    """A .toml file whose [pipeline] table, and every stage's own ([sft], [ppo], ...), override the profile. Where a
    stage reads and writes, the pipeline decides."""
    input: str = "sample"
    """Dialogues: `sample` (embedded), `redial:train|valid|test` (below ECR_DATA_DIR), or a path or URI: ReDial .jsonl,
    the released .zip, or a directory of these."""
    output: str = "runs/pipeline"
    """Directory of the artifact, shared by all nodes: one below it for every stage, logs/, run.json."""
    from_: Annotated[PipelineStage | None, tyro.conf.arg(name="from")] = None
    """Begin with this stage; the results of those before it must be there."""
    until: PipelineStage | None = None
    """End with this stage."""
    only: tuple[PipelineStage, ...] = ()
    """Run only these stages."""
    force: tuple[PipelineStage, ...] = ()
    """Run these stages again though they are up to date, and with them those that read their results."""
    overwrite: bool = False
    """Replace results that were made with other settings."""
    plan_only: bool = False
    """Print what would run, and stop."""
    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What a stage is told in a pipeline, and not when it runs by itself: [pipeline.stages.sft] of a profile. A stage's
    own table in a --config file goes before it."""


@dataclass(frozen=True)
class ClusterConfig:
    """Start a Ray cluster inside a SLURM job, run a job file on it, and leave nothing behind.

    sbatch [SBATCH OPTIONS] slurm_ray_start.sh [OPTIONS] [JOB.py ARGUMENTS | -- COMMAND ARGUMENTS]

    Everything from the first word that ends in .py belongs to the job. Without a job the cluster stays up, and how
    to attach is printed. Exit code: the job's own; or 69: no cluster came up; 70: a node was lost; 75: the time ran
    out and SLURM would not start the job over; 143: ended by scancel or the time limit.
    """

    profile: str = "cluster"
    """Set of defaults: tiny, node, cluster, or a path to a .toml. The job has its own --profile."""
    config: str | None = None
    """A .toml file whose [cluster] table overrides the profile."""
    on_node_loss: Literal["fail", "continue"] = "fail"
    """When a worker node goes away: end everything with code 70, or go on with the rest. A lost head ends it."""
    roles: tuple[str, ...] = ()
    """Labels for the nodes in their order, as in `train:2 rollout:4`; for label_selector={"role": ...}."""
    interface: str | None = None
    """Network interface whose IPv4 address Ray uses (ib0, ...); by default the one that SLURM uses."""
    run_dir: str = "runs/slurm"
    """Below it, in a directory a run: token, journal, logs of the nodes. Must be shared by all nodes."""
    temp_dir: str = "/tmp"
    """Node-local directory for Ray's sockets and sessions; short, because Unix sockets ask for that."""
    ports: str = "20000-32000"
    """LOW-HIGH: where Ray's ports are taken from, starting at a place that the job id decides."""
    object_store_gib: float | None = None
    """Ray's shared memory on each node; by default 30 % of the job's memory there, within /dev/shm."""
    dashboard_host: str = "127.0.0.1"
    """Where the dashboard listens on the head; an ssh tunnel reaches the loopback address."""
    start_timeout_s: float = 120.0
    """Every node must have answered after this time, and have joined after as much again."""
    silence_timeout_s: float = 15.0
    """A node that says nothing for so long is lost."""
    stop_timeout_s: float = 20.0
    """How long tidying up may take before it is ended by force."""
    checkpoint_grace_s: float = 60.0
    """How long the job may take to save its state when SLURM announces the time limit (SIGUSR1)."""
    max_requeues: int = 100
    """How often a job that ran out of time is started over."""
    dry_run: bool = False
    """Print what would be started in this allocation, and stop."""


@dataclass(frozen=True)
class JudgeConfig:
    """How one judge is run. Stands in a profile or --config file as [judges.NAME]."""

    model: str
    """`tiny:SEED`, a directory, or a hub id; for `http` the model's name at the endpoint; for `critic` a bundled critic
    or a directory with one."""
    backend: Literal["vllm", "http", "critic"] = "vllm"
    device: Literal["gpu", "cpu"] = "gpu"
    engines: int = 1
    tensor_parallel_size: int = 1
    cpus_per_engine: float = 1.0
    dtype: str = "auto"
    quantization: str | None = None
    max_model_len: int = 4096
    max_num_seqs: int = 256
    gpu_memory_utilization: float = 0.9
    cpu_kv_cache_gib: int = 1
    engine: Mapping[str, Any] = field(default_factory=dict)
    """Further vLLM engine arguments."""
    url: str = ""
    """http: the endpoint's base, as in http://host:8000/v1."""
    api_key_env: str = ""
    """http: name of the environment variable that holds the key."""
    max_requests: int = 32
    """http: requests in flight."""
    timeout_s: float = 60.0
    """http: seconds a request may take."""
    temperature: float = 0.0
    """http: sampling temperature."""
    name: str = ""


def load(cls: type[T], stage: str, argv: Sequence[str] | None = None, prog: str | None = None) -> T:
    """Parse a job's command line over its config file over its profile.

    Args:
        cls: the stage's dataclass.
        stage: the name of its table in the files.
        argv: arguments without the program's name; `sys.argv[1:]` by default.

    Raises:
        ConfigError: a file that cannot be read, an unknown key (with the nearest known one), a wrong type, a number out
            of its range.
        SystemExit: a wrong command line (2), or --help (0).
    """
    import tyro

    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--profile", default=cls.profile)
    first.add_argument("--config", default=None)
    files, _ = first.parse_known_args(argv)
    values: dict[str, Any] = {}
    for source, tables in _sources(files.profile, files.config):
        table = tables.get(stage, {})
        _check_keys(table, [f.name for f in dataclasses.fields(cls)], f"{source}, table [{stage}]")
        values |= {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    default = _typed(cls, values, f"[{stage}] of the profile or --config file")
    default = dataclasses.replace(default, profile=files.profile, config=files.config)
    settings = tyro.cli(cls, default=default, args=argv, prog=prog, description=inspect.cleandoc(cls.__doc__ or ""))
    for name, value in vars(settings).items():
        if fault := out_of_range(name, value):
            raise ConfigError(f"--{name.replace('_', '-')} {value}: {fault}")
    return settings


def of_mapping(cls: type[T], stage: str, given: Mapping[str, Any]) -> T:
    """A stage's settings from `key=value` pairs, as `serve run` hands them on, over config file and profile.

    Raises:
        ConfigError: an unknown key (with the nearest known one), or a value of the wrong type.
    """
    _check_keys(given, [f.name for f in dataclasses.fields(cls)], "the arguments")
    words = []
    for key, value in given.items():
        option = f"--{key.replace('_', '-')}"
        if isinstance(value, bool) or value in ("true", "True", "false", "False"):
            words.append(option if value in (True, "true", "True") else option.replace("--", "--no-", 1))
        else:
            parts = value if isinstance(value, list | tuple) else [value]
            words += [option, *map(str, parts)]
    try:
        return load(cls, stage, words)
    except SystemExit as error:
        raise ConfigError(f"these arguments cannot be used: {dict(given)}") from error


def out_of_range(name: str, value: Any) -> str:
    """Why a setting cannot be this number; empty where it can, and where it is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    if not math.isfinite(value):
        return "it must be a number"
    if name in _SHARES and not 0 <= value <= 1:
        return "it must be in 0-1"
    if name in _BELOW_ONE and not 0 <= value < 1:
        return "it must be in 0-1, and below 1"
    if (name in _ABOVE_ZERO or name.endswith("_s")) and value <= 0:
        return "it must be above 0"
    least = 1 if isinstance(value, int) and name not in _FROM_ZERO else 0
    return f"it must be at least {least}" if value < least else ""


def load_judges(profile: str, config: str | None) -> dict[str, JudgeConfig]:
    """Every judge defined under a profile and a config file, by name."""
    tables: dict[str, dict[str, Any]] = {}
    known = [f.name for f in dataclasses.fields(JudgeConfig) if f.name != "name"]
    for source, content in [("judges.toml", _read_profile("judges")), *_sources(profile, config)]:
        for name, table in content.get("judges", {}).items():
            _check_keys(table, known, f"{source}, table [judges.{name}]")
            tables.setdefault(name, {}).update(table)
    for name, table in tables.items():
        if "model" not in table:
            raise ConfigError(f"[judges.{name}]: the key 'model' is missing")
        for key, value in table.items():
            if fault := out_of_range(key, value):
                raise ConfigError(f"[judges.{name}]: {key} = {value}: {fault}")
    return {name: _typed(JudgeConfig, {**table, "name": name}, f"[judges.{name}]") for name, table in tables.items()}


def load_table(name: str, profile: str, config: str | None) -> dict[str, Any]:
    """A table that is no stage's: the config file's keys over the profile's."""
    found: dict[str, Any] = {}
    for _, tables in _sources(profile, config):
        found |= tables.get(name, {})
    return found


def nearest(word: str, known: Sequence[str]) -> str:
    """`; did you mean X?` where a known word is close, else the list of known words."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"


def describe(config: Any) -> str:
    """The effective values, one a line, for the top of a job's output."""
    values = dataclasses.asdict(config)
    width = max(map(len, values))
    return "\n".join(f"  {key:<{width}}  {value}" for key, value in values.items())


def _sources(profile: str, config: str | None) -> list[tuple[str, dict[str, Any]]]:
    sources = [(f"profile {profile}", _read_profile(profile))]
    return sources + ([(config, _read_toml(Path(config)))] if config else [])


def _read_profile(name: str) -> dict[str, Any]:
    if name.endswith(".toml"):
        return _read_toml(Path(name))
    profiles = resources.files("ecr_ray") / "profiles"
    found = profiles / f"{name}.toml"
    if not found.is_file():
        known = [
            p.name.removesuffix(".toml") for p in profiles.iterdir() if p.name not in {"judges.toml", "__pycache__"}
        ]
        raise ConfigError(f"there is no profile {name!r}{nearest(name, known)}")
    return tomllib.loads(found.read_text())


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read the config file {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def _check_keys(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}{nearest(key, known)}")


def _typed(cls: type[T], values: dict[str, Any], where: str) -> T:
    """`cls(**values)` after checking every value against its field's annotation."""
    from typeguard import TypeCheckError, check_type

    for f in dataclasses.fields(cls):
        if f.name in values:
            value = values[f.name]
            value = float(value) if f.type is float and isinstance(value, int) else value
            try:
                values[f.name] = check_type(value, f.type)
            except TypeCheckError as error:
                raise ConfigError(f"{where}: {f.name} = {value!r}: {error}") from error
    return cls(**values)
