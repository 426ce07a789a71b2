"""What ranks: who named what, felt how, and said what, against every item of the catalogue (the layers: network.py).

- A relational graph encoder gives every item a vector: its own, and those of its neighbours in the graph by relation
  (R-GCN with diagonal relation weights; Schlichtkrull et al., ESWC 2018; Yang et al., ICLR 2015).
- Mentions are attended to by who named them, how long ago, and the emotion of the turn that goes with them (ECR,
  RecSys 2024).
- What was said are the vectors of a frozen sentence encoder, attended to in the same way.
- Co-occurrence comes from outside: EASE's scores, whose weight is learnt (they are not learnt here, because a closed
  form does it better).
- Items that were named before get what is learnt for having been named by whom and how long ago.

Shapes: B turns, L mentions, K texts, I items, N nodes, D width.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ecr_ray.recommender import features
from ecr_ray.recommender.catalogue import Graph
from ecr_ray.recommender.features import Features

if TYPE_CHECKING:
    import torch

# Parts that an ablation leaves out.
PARTS = ("emotions", "graph", "text", "co-occurrence", "repetition")


@dataclass(frozen=True)
class Shape:
    """What the network is, apart from its weights."""

    items: int
    nodes: int
    relations: int
    text_width: int
    encoder: str
    width: int = 128
    dropout: float = 0.3
    without: tuple[str, ...] = ()


def edges_of(graph: Graph, items: int) -> np.ndarray:
    """The edges that reach an item, as (item, relation, other node), (E, 3); against the arrow the relation counts as
    another one."""
    edges, relations = graph.edges_E3, len(graph.relations)
    back = edges[edges[:, 2] < items][:, [2, 1, 0]] + np.array([0, relations, 0])
    return np.concatenate([edges[edges[:, 0] < items], back])


def build(shape: Shape, edges_E3: np.ndarray, popularity_I: np.ndarray) -> "torch.nn.Module":
    """A network that begins with what is popular.

    Args:
        edges_E3: of `edges_of`.
        popularity_I: how often each item is recommended in training.
    """
    from ecr_ray.recommender.network import Network

    return Network(shape, edges_E3, popularity_I)


def batch_of(found: Features, text_UH: np.ndarray, together_MI: np.ndarray) -> tuple[Any, ...]:
    """What `forward` takes, as tensors.

    Args:
        found: of some turns.
        text_UH: vectors of all texts.
        together_MI: EASE's scores at these turns.
    """
    import torch

    vectors = text_UH[np.maximum(found.text_MK, 0)].astype(np.float32) * (found.text_MK >= 0)[..., None]
    ages = np.minimum(np.arange(features.TEXTS) + 1, features.OLDEST)
    seats = found.role_ML.astype(np.int64) * (features.OLDEST + 1) + found.age_ML
    text_seats = found.speaker_MK.astype(np.int64) * (features.OLDEST + 1) + ages
    return (
        torch.from_numpy(found.item_ML.astype(np.int64)),
        torch.from_numpy(seats),
        torch.from_numpy(found.felt_MLE.astype(np.float32)),
        torch.from_numpy(vectors),
        torch.from_numpy(text_seats),
        torch.from_numpy(found.length_M.astype(np.int64)),
        torch.from_numpy(np.ascontiguousarray(together_MI, dtype=np.float32)),
    )
