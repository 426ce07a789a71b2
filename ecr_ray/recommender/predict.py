"""A trained recommender: dialogues in, films out with scores and reasons; on one core, without Ray.

The directory holds `recommender.json` (shape), `model.safetensors`, `catalogue.json`, `content.npy` (the encoder's
vectors of the items) and `together.npz` (what is named together: EASE's weights, of every item the strongest).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ecr_ray import storage
from ecr_ray.encoders import embed
from ecr_ray.errors import UserError
from ecr_ray.recommender import catalogue, examples, features, model, reasons
from ecr_ray.recommender.catalogue import Catalogue
from ecr_ray.recommender.examples import Turn
from ecr_ray.recommender.linking import Linker
from ecr_ray.recommender.reasons import Reason

SHAPE, WEIGHTS, CATALOGUE = "recommender.json", "model.safetensors", "catalogue.json"
TOGETHER, CONTENT = "together.npz", "content.npy"
# Of what is named together with an item so many are kept; beyond, weights are next to nothing.
NEIGHBOURS = 400
# Sentences whose vectors are kept: a dialogue grows by one at a time.
REMEMBERED = 4096


class RecommenderError(UserError):
    """A directory that holds no recommender, or a damaged one."""


@dataclass(frozen=True)
class Recommended:
    """One film."""

    item_id: str
    title: str
    year: int | None
    score: float
    """Its probability among all that could be recommended."""
    reason: Reason


@dataclass(frozen=True)
class Answer:
    """What is recommended, and what that rests on."""

    films: tuple[Recommended, ...]
    mentioned: tuple[str, ...]
    """Ids of the films that were found in the dialogue."""
    note: str = ""
    """What the recommender had to do without."""


def save(
    directory: Path,
    shape: model.Shape,
    members: Sequence[Mapping[str, Any]],
    what: Catalogue,
    content_IH: np.ndarray,
    together_II: np.ndarray,
    max_length: int,
) -> None:
    """Write a recommender; the shape comes last.

    Args:
        members: weights of every network.
    """
    from safetensors.torch import save as as_bytes

    directory.mkdir(parents=True, exist_ok=True)
    weights = {f"{n}.{name}": tensor for n, one in enumerate(members) for name, tensor in rounded(one).items()}
    storage.write_bytes(directory / WEIGHTS, as_bytes(weights))
    catalogue.save(directory / CATALOGUE, what)
    count = min(NEIGHBOURS, together_II.shape[1])
    kept = np.argsort(-np.abs(together_II), axis=1, kind="stable")[:, :count].astype(np.int32)
    values = np.take_along_axis(together_II, kept, axis=1).astype(np.float16)
    with (directory / TOGETHER).open("wb") as file:
        np.savez(file, item=kept, weight=values)
    np.save(directory / CONTENT, content_IH.astype(np.float16))
    content = asdict(shape) | {"max_length": max_length, "members": len(members)}
    (directory / SHAPE).write_text(json.dumps(content, indent=2) + "\n")


def rounded(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Weights as they are kept, in half precision: it takes half the space, and moves no rank that matters."""
    return {name: tensor.half().contiguous() for name, tensor in weights.items()}


class Recommender:
    """Ranks the catalogue after any dialogue."""

    def __init__(self, directory: Path) -> None:
        """Load it.

        Raises:
            RecommenderError: there is none.
        """
        import torch
        from safetensors.torch import load_file

        if not (directory / SHAPE).is_file():
            raise RecommenderError(f"{directory} holds no recommender (no {SHAPE})")
        content = json.loads((directory / SHAPE).read_text())
        max_length, members = content.pop("max_length"), content.pop("members")
        self.shape = model.Shape(**{**content, "without": tuple(content["without"])})
        self.catalogue = catalogue.read(directory / CATALOGUE)
        weights = load_file(directory / WEIGHTS)
        count = len(self.catalogue)
        given = model.Given(model.edges_of(self.catalogue.graph, count), np.load(directory / CONTENT), np.zeros(count))
        networks = torch.nn.ModuleList(model.build(self.shape, given) for _ in range(members)).eval()
        try:
            networks.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        except RuntimeError as error:
            raise RecommenderError(f"{directory}: {WEIGHTS} does not fit {SHAPE}: {error}") from error
        self._network = model.Members(list(networks))
        with torch.inference_mode():
            self._items = self._network.items()
        with np.load(directory / TOGETHER) as kept:
            self._together = kept["item"], kept["weight"].astype(np.float32)
        self._linker = Linker(self.catalogue)
        self._resolve = examples.resolver(self.catalogue)
        self._embedder = embed.Local(self.shape.encoder, max_length=max_length)
        self._known: dict[str, tuple[np.ndarray, list[int]]] = {}
        self._link = lru_cache(REMEMBERED)(self._linker.items)

    def turn(self, dialogue: Sequence[Mapping[str, Any]]) -> Turn:
        """A dialogue (`role`, `text`; perhaps `movie_ids`, `emotions`) as what is asked."""
        return examples.of_context(dialogue, self._resolve, self._link)

    def recommend(self, dialogue: Sequence[Mapping[str, Any]], count: int = 10, *, again: bool = False) -> Answer:
        """The best films after a dialogue, each with a reason.

        Args:
            count: how many.
            again: also recommend films that were named before.
        """
        turn = self.turn(dialogue)
        scores = self.scores([turn])[0]
        probability = np.exp(scores)
        if not again:
            scores = scores.copy()
            scores[turn.mentioned] = -np.inf
        films = []
        for number in _best(scores, count):
            item = self.catalogue.items[number]
            reason = reasons.reason(number, turn, self.catalogue, self._near(number, turn))
            films.append(Recommended(item.item_id, item.title, item.year, float(probability[number]), reason))
        mentioned = tuple(self.catalogue.items[number].item_id for number in turn.mentioned)
        return Answer(tuple(films), mentioned, self._note(turn))

    def scores(self, turns: Sequence[Turn]) -> np.ndarray:
        """Log-probabilities of all items after each turn, (M, I)."""
        import torch

        numbers = features.texts_of(turns)
        texts = self._read(list(numbers))
        found = features.of_turns(turns, numbers)
        batch = model.batch_of(found, texts, self._named_together(turns))
        with torch.inference_mode():
            return self._network.rank(self._items, *batch).numpy()

    def _read(self, texts: Sequence[str]) -> features.Texts:
        """Vectors and word pieces of texts; those that were read before are remembered."""
        new = [text for text in texts if text not in self._known]
        pieces = self._embedder.reader.pieces(new)
        found = {text: self._known[text] for text in texts if text in self._known}
        found |= dict(zip(new, zip(self._embedder.embed(new), pieces, strict=True), strict=True))
        self._known |= found
        while len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        read = [found[text] for text in texts] or [(np.zeros(self.shape.text_width, np.float32), [])]
        return features.Texts.of(np.stack([vector for vector, _ in read]), [ids for _, ids in read])

    def _named_together(self, turns: Sequence[Turn]) -> np.ndarray:
        item, weight = self._together
        found = np.zeros((len(turns), len(self.catalogue)), dtype=np.float32)
        for row, turn in enumerate(turns):
            for mentioned in turn.mentioned:
                found[row, item[mentioned]] += weight[mentioned]
        return found

    def _near(self, number: int, turn: Turn) -> dict[int, float]:
        """How much each mentioned item speaks for one."""
        item, weight = self._together
        found = {}
        for mentioned in turn.mentioned:
            (at,) = np.nonzero(item[mentioned] == number)
            found[mentioned] = float(weight[mentioned, at[0]]) if len(at) else 0.0
        return found

    def _note(self, turn: Turn) -> str:
        if not turn.texts:
            return "nothing has been said yet: these are what is recommended most"
        if not turn.mentions:
            return "no film of the catalogue was named: this rests on words and on what is recommended most"
        return ""


def _best(scores: np.ndarray, count: int) -> list[int]:
    """Places of the highest scores that are not minus infinity, best first, of equal ones the earlier."""
    if count < len(scores):
        worst = np.partition(scores, -count)[-count] if count else np.inf
        places = np.flatnonzero(scores >= worst)
    else:
        places = np.arange(len(scores))
    ordered = places[np.argsort(-scores[places], kind="stable")][:count]
    return [int(n) for n in ordered if np.isfinite(scores[n])]
