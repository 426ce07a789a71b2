"""A classifier against people's labels: GoEmotions' test split, and the embedded sample's writer; beside baselines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ecr_ray.data import reading
from ecr_ray.emotion import measures
from ecr_ray.emotion.goemotions import NOSTALGIA, Example
from ecr_ray.emotion.measures import Predicted
from ecr_ray.encoders import predict
from ecr_ray.records import EMOTIONS

CLASSIFIER, WORDS, MAJORITY = "classifier", "bag-of-words logistic regression", "the training shares"
TEST, SAMPLE = "GoEmotions, test split", "embedded sample, seekers' messages"


@dataclass(frozen=True)
class Found:
    """Rows of measures by what they are measured on, thresholds by emotion, and every test message."""

    rows: dict[str, list[dict[str, Any]]]
    thresholds: dict[str, float]
    predictions: pa.Table


def sample_messages() -> list[Example]:
    """The embedded sample's messages with the emotions that their writer gave them; nothing is learnt from these."""
    found = []
    rows = reading.read(reading.find("sample"), max_message_chars=20_000, number_rows=False)
    for row in rows:
        for message in row.value["messages"] if isinstance(row, reading.Row) else ():
            named = {emotion["label"] for emotion in message["emotions"] or ()}
            if named:
                found.append(Example(message["text"], tuple(e in named for e in EMOTIONS), (1.0,) * len(EMOTIONS)))
    return found


def measure(
    critic: predict.Pool,
    reader: Any,
    train: Sequence[Example],
    valid: Sequence[Example],
    test: Sequence[Example],
    *,
    resamples: int,
    seed: int,
) -> Found:
    """Everything that is said of a classifier. Thresholds are chosen on the validation rows, for baselines too.

    Nostalgia, which nobody labelled in GoEmotions, is measured on the sample only; its threshold is ½ for all.
    """
    sets = {"valid": list(valid), TEST: list(test), SAMPLE: sample_messages()}
    said = {
        name: {
            CLASSIFIER: critic.predict_ids(reader.encode_alone([e.text for e in rows])).mean_NK,
        }
        for name, rows in sets.items()
    }
    words = Words().fit(train)
    share_K = shares(train)
    for name, rows in sets.items():
        said[name][WORDS] = words.predict([e.text for e in rows])
        said[name][MAJORITY] = np.tile(share_K, (len(rows), 1))
    labels = {name: np.array([e.emotions for e in rows], dtype=bool) for name, rows in sets.items()}
    cut = {model: measures.thresholds(said["valid"][model], labels["valid"]) for model in said["valid"]}
    for threshold_K in cut.values():
        threshold_K[NOSTALGIA] = 0.5
    again = {"resamples": resamples, "seed": seed}
    rows = {
        name: measures.table(
            {model: Predicted(said[name][model], cut[model]) for model in said[name]},
            labels[name],
            EMOTIONS,
            leave_out=("nostalgia",) if name == TEST else (),
            **again,
        )
        for name in (TEST, SAMPLE)
    }
    predictions = pa.concat_tables(
        _table(name, sets[name], said[name][CLASSIFIER], cut[CLASSIFIER]) for name in (TEST, SAMPLE)
    )
    return Found(rows, dict(zip(EMOTIONS, map(float, cut[CLASSIFIER]), strict=True)), predictions)


def _table(name: str, rows: Sequence[Example], probability_NK: np.ndarray, threshold_K: np.ndarray) -> pa.Table:
    def named(there_NK: np.ndarray) -> list[list[str]]:
        return [[EMOTIONS[k] for k in np.flatnonzero(there)] for there in there_NK]

    return pa.table(
        {
            "set": [name] * len(rows),
            "text": [e.text for e in rows],
            "labels": named(np.array([e.emotions for e in rows], dtype=bool)),
            "predicted": named(probability_NK >= threshold_K),
            **{emotion: pa.array(probability_NK[:, k], pa.float32()) for k, emotion in enumerate(EMOTIONS)},
        }
    )


def shares(train: Sequence[Example]) -> np.ndarray:
    """The share of each emotion among the rows that know it, weighted, (K,)."""
    there, weights = (np.array([getattr(e, name) for e in train], dtype=float) for name in ("emotions", "weights"))
    return (there * weights).sum(0) / weights.sum(0)


class Words:
    """Logistic regression for each emotion on a tf-idf bag of words and word pairs."""

    def __init__(self) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
        self._models: list[Any] = []

    def fit(self, train: Sequence[Example]) -> "Words":
        """Learn from the training rows, with their weights."""
        from sklearn.linear_model import LogisticRegression

        counts = self._words.fit_transform([e.text for e in train])
        there, weights = (np.array([getattr(e, name) for e in train]) for name in ("emotions", "weights"))
        for k in range(len(EMOTIONS)):
            known = weights[:, k] > 0
            label = there[known, k].astype(bool)
            if label.all() or not label.any():
                self._models.append(float(label.mean()))
                continue
            model = LogisticRegression(C=4.0, solver="liblinear", random_state=0)
            self._models.append(model.fit(counts[known], label, sample_weight=weights[known, k]))
        return self

    def predict(self, texts: Sequence[str]) -> np.ndarray:
        """Probabilities, (N, K)."""
        counts = self._words.transform(texts)
        columns = [
            np.full(len(texts), model) if isinstance(model, float) else model.predict_proba(counts)[:, 1]
            for model in self._models
        ]
        return np.column_stack(columns)
