"""What ranks: who named what, felt how, and said what, against every item of the catalogue (the layers: network.py).

- A relational graph encoder gives every item a vector: its own, and those of its neighbours in the graph by relation
  (R-GCN with diagonal relation weights; Schlichtkrull et al., ESWC 2018; Yang et al., ICLR 2015). To it comes what a
  frozen sentence encoder makes of the item's title and facts.
- Mentions are attended to by who named them, how long ago, and the emotion of the turn that goes with them (ECR,
  RecSys 2024).
- What was said are the vectors of the same encoder, attended to in the same way, and a bag of word pieces, each with a
  vector and a weight that are learnt here (fastText; Joulin et al., EACL 2017).
- Co-occurrence comes from outside: EASE's scores, whose weight is learnt (they are not learnt here, because a closed
  form does it better).
- Items that were named before get what is learnt for having been named by whom and how long ago.

Shapes: B turns, L mentions, K texts, I items, N nodes, D width, H of the encoder, F tokens of all texts of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ecr_ray.recommender import features
from ecr_ray.recommender.catalogue import Graph, Item
from ecr_ray.recommender.features import Features, Texts

if TYPE_CHECKING:
    import torch

# Parts that an ablation leaves out; `weights`: of feedback, in training.
PARTS = ("emotions", "graph", "content", "text", "co-occurrence", "repetition", "weights")
# Of each relation so many names are told to the encoder.
NAMED = 6


@dataclass(frozen=True)
class Shape:
    """What the network is, apart from its weights."""

    items: int
    nodes: int
    relations: int
    text_width: int
    tokens: int
    """Of the encoder's vocabulary."""
    encoder: str
    width: int = 128
    dropout: float = 0.4
    word_dropout: float = 0.3
    """Share of word pieces that are not heard in training."""
    without: tuple[str, ...] = ()


def edges_of(graph: Graph, items: int) -> np.ndarray:
    """The edges that reach an item, as (item, relation, other node), (E, 3); against the arrow the relation counts as
    another one."""
    edges, relations = graph.edges_E3, len(graph.relations)
    back = edges[edges[:, 2] < items][:, [2, 1, 0]] + np.array([0, relations, 0])
    return np.concatenate([edges[edges[:, 0] < items], back])


def content_of(item: Item) -> str:
    """An item's title and facts as a text for the encoder."""
    names: dict[str, list[str]] = {}
    for fact in item.facts:
        names.setdefault(fact.relation, []).append(fact.name)
    said = (f"{relation}: {', '.join(found[:NAMED])}." for relation, found in names.items())
    return " ".join([f"{item.title}.", *said])


@dataclass(frozen=True)
class Given:
    """What a network is told of the catalogue before it learns anything."""

    edges_E3: np.ndarray
    """Of `edges_of`."""
    content_IH: np.ndarray
    """Vectors of `content_of`."""
    popularity_I: np.ndarray
    """How often each item is recommended in training."""

    def save(self, path: Path) -> None:
        """As one .npz file."""
        with path.open("wb") as file:
            np.savez(file, **{f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "Given":
        """What `save` wrote."""
        with np.load(path) as content:
            return cls(**{f.name: content[f.name] for f in fields(cls)})


def build(shape: Shape, given: Given) -> "torch.nn.Module":
    """A network that begins with what is popular."""
    from ecr_ray.recommender.network import Network

    return Network(shape, given)


class Members:
    """Networks that were trained alike from different seeds, ranking together: the mean of their probabilities."""

    def __init__(self, networks: Sequence[Any]) -> None:
        self._networks = networks

    def items(self) -> list["torch.Tensor"]:
        """Every network's items."""
        return [network.items() for network in self._networks]

    def rank(self, items: Sequence["torch.Tensor"], *batch: Any) -> "torch.Tensor":
        """Log-probabilities of all items, (B, I)."""
        import torch

        parts = zip(self._networks, items, strict=True)
        logs = torch.stack([torch.log_softmax(network.rank(own, *batch), dim=-1) for network, own in parts])
        return torch.logsumexp(logs, dim=0) - float(np.log(len(self._networks)))


def batch_of(found: Features, texts: Texts, together_MI: np.ndarray) -> tuple[Any, ...]:
    """What `forward` takes, as tensors.

    Args:
        found: of some turns.
        texts: those that the turns' numbers mean.
        together_MI: EASE's scores at these turns.
    """
    import torch

    vectors = texts.vector_UH[np.maximum(found.text_MK, 0)].astype(np.float32) * (found.text_MK >= 0)[..., None]
    token_F, start_P = texts.tokens_of(found.text_MK.reshape(-1))
    ages = np.minimum(np.arange(features.TEXTS) + 1, features.OLDEST)
    seats = found.role_ML.astype(np.int64) * (features.OLDEST + 1) + found.age_ML
    text_seats = found.speaker_MK.astype(np.int64) * (features.OLDEST + 1) + ages
    return (
        torch.from_numpy(found.item_ML.astype(np.int64)),
        torch.from_numpy(seats),
        torch.from_numpy(found.felt_MLE.astype(np.float32)),
        torch.from_numpy(vectors),
        torch.from_numpy(token_F.astype(np.int64)),
        torch.from_numpy(start_P.astype(np.int64)),
        torch.from_numpy(text_seats),
        torch.from_numpy(found.length_M.astype(np.int64)),
        torch.from_numpy(np.ascontiguousarray(together_MI, dtype=np.float32)),
    )
