"""The network that ranks: who named what, felt how, and said what, against every item of the catalogue.

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
from ecr_ray.records import EMOTIONS, ROLES

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
    import torch
    from torch import nn

    width, seats = shape.width, len(ROLES) * (features.OLDEST + 1)

    class Recommender(nn.Module):
        """A batch (see `batch_of`) → scores of all items, (B, I)."""

        def __init__(self) -> None:
            super().__init__()
            self.nodes = nn.Embedding(shape.nodes, width)
            nn.init.normal_(self.nodes.weight, std=0.02)
            self.relations = nn.Embedding(2 * shape.relations, width)
            nn.init.ones_(self.relations.weight)
            item, relation, other = (torch.from_numpy(edges_E3[:, k].copy()).long() for k in range(3))
            degree = torch.bincount(item, minlength=shape.items).clamp_min(1).float()
            for name, values in (("item", item), ("relation", relation), ("other", other), ("degree", degree)):
                self.register_buffer(f"edge_{name}", values, persistent=False)
            self.seat, self.text_seat = nn.Embedding(seats, 1), nn.Embedding(seats, 1)
            self.repeated = nn.Embedding(seats, 1)
            for table in (self.seat, self.text_seat, self.repeated):
                nn.init.zeros_(table.weight)
            self.feeling = nn.Linear(len(EMOTIONS), 1, bias=False)
            self.feelings = nn.Linear(len(EMOTIONS), width, bias=False)
            self.wanted = nn.Linear(width, 1)
            self.words = nn.Linear(shape.text_width, width)
            self.heard = nn.Linear(shape.text_width, 1)
            self.latest = nn.Linear(shape.text_width, width)
            self.length = nn.Embedding(features.LONGEST + 1, width)
            nn.init.zeros_(self.length.weight)
            self.mix = nn.Sequential(
                nn.Linear(4 * width, 2 * width), nn.GELU(), nn.Dropout(shape.dropout), nn.Linear(2 * width, width)
            )
            self.straight = nn.Linear(width, width, bias=False)
            nn.init.eye_(self.straight.weight)
            start = np.log(popularity_I + 0.5) - np.log((popularity_I + 0.5).sum())
            self.bias = nn.Parameter(torch.from_numpy(start).float())
            self.together = nn.Parameter(torch.tensor([8.0, 1.0]))
            self.dropout = nn.Dropout(shape.dropout)

        def items(self) -> torch.Tensor:
            """The items' vectors, (I, D)."""
            own = self.nodes.weight[: shape.items]
            if "graph" in shape.without:
                return own
            sent = self.nodes(self.edge_other) * self.relations(self.edge_relation)
            received = torch.zeros_like(own).index_add_(0, self.edge_item, sent)
            return own + received / self.edge_degree[:, None].sqrt()

        def forward(
            self,
            item: torch.Tensor,
            seat: torch.Tensor,
            felt: torch.Tensor,
            text: torch.Tensor,
            text_seat: torch.Tensor,
            length: torch.Tensor,
            together: torch.Tensor,
        ) -> torch.Tensor:
            return self.rank(self.items(), item, seat, felt, text, text_seat, length, together)

        def rank(
            self,
            items: torch.Tensor,
            item: torch.Tensor,
            seat: torch.Tensor,
            felt: torch.Tensor,
            text: torch.Tensor,
            text_seat: torch.Tensor,
            length: torch.Tensor,
            together: torch.Tensor,
        ) -> torch.Tensor:
            """The same with the items' vectors given: they change only when the network learns."""
            named = item >= 0
            vectors = items[item.clamp_min(0)]
            weight = self.seat(seat)[..., 0] + self.wanted(vectors)[..., 0]
            if "emotions" not in shape.without:
                weight = weight + self.feeling(felt)[..., 0]
                vectors = vectors + self.feelings(felt)
            mentions = _attend(weight, vectors, named)
            there = text.abs().sum(-1) > 0
            heard = _attend(self.text_seat(text_seat)[..., 0] + self.heard(text)[..., 0], self.words(text), there)
            latest = self.latest(text[:, 0])
            if "text" in shape.without:
                heard, latest = torch.zeros_like(heard), torch.zeros_like(latest)
            said = self.dropout(torch.cat([mentions, heard, latest, self.length(length)], dim=-1))
            query = self.mix(said) + self.straight(mentions)
            scores = self.dropout(query) @ items.T + self.bias
            if "co-occurrence" not in shape.without:
                first, second = self.together
                scores = scores + first * together + second * torch.log1p(100 * together.clamp_min(0))
            if "repetition" not in shape.without:
                again = torch.where(named, self.repeated(seat)[..., 0], torch.zeros_like(weight))
                scores = scores.scatter_add(1, item.clamp_min(0), again)
            return scores

    def _attend(weight: torch.Tensor, vectors: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """The mean of vectors by softmax of their weights; 0 where there is none."""
        shares = torch.softmax(weight.masked_fill(~there, -1e9), dim=-1) * there
        return (shares[..., None] * vectors).sum(-2)

    return Recommender()


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
