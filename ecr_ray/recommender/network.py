"""The layers of the recommender; model.py says what they are for. Imports torch, so nothing imports this at its top."""

import numpy as np
import torch
from torch import Tensor, nn

from ecr_ray.recommender import features
from ecr_ray.recommender.model import Shape
from ecr_ray.records import EMOTIONS, ROLES

# One for every speaker and age of what was said.
SEATS = len(ROLES) * (features.OLDEST + 1)


class Network(nn.Module):
    """A batch (see model.batch_of) → scores of all items, (B, I)."""

    def __init__(self, shape: Shape, edges_E3: np.ndarray, popularity_I: np.ndarray) -> None:
        super().__init__()
        self.shape, width = shape, shape.width
        self._add_graph(edges_E3)
        self.seat, self.text_seat, self.repeated = (_zeros(SEATS, 1) for _ in range(3))
        self.feeling = nn.Linear(len(EMOTIONS), 1, bias=False)
        self.feelings = nn.Linear(len(EMOTIONS), width, bias=False)
        self.wanted = nn.Linear(width, 1)
        self.words, self.latest = nn.Linear(shape.text_width, width), nn.Linear(shape.text_width, width)
        self.heard = nn.Linear(shape.text_width, 1)
        self.length = _zeros(features.LONGEST + 1, width)
        self.mix = nn.Sequential(
            nn.Linear(4 * width, 2 * width), nn.GELU(), nn.Dropout(shape.dropout), nn.Linear(2 * width, width)
        )
        self.straight = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.straight.weight)
        start = np.log(popularity_I + 0.5) - np.log((popularity_I + 0.5).sum())
        self.bias = nn.Parameter(torch.from_numpy(start).float())
        self.together = nn.Parameter(torch.tensor([8.0, 1.0]))
        self.dropout = nn.Dropout(shape.dropout)

    def _add_graph(self, edges_E3: np.ndarray) -> None:
        shape = self.shape
        self.nodes = nn.Embedding(shape.nodes, shape.width)
        nn.init.normal_(self.nodes.weight, std=0.02)
        self.relations = nn.Embedding(2 * shape.relations, shape.width)
        nn.init.ones_(self.relations.weight)
        item, relation, other = (torch.from_numpy(edges_E3[:, k].copy()).long() for k in range(3))
        degree = torch.bincount(item, minlength=shape.items).clamp_min(1).float()
        for name, values in (("item", item), ("relation", relation), ("other", other), ("degree", degree)):
            self.register_buffer(f"edge_{name}", values, persistent=False)

    def items(self) -> Tensor:
        """The items' vectors, (I, D)."""
        own = self.nodes.weight[: self.shape.items]
        if "graph" in self.shape.without:
            return own
        sent = self.nodes(self.edge_other) * self.relations(self.edge_relation)
        received = torch.zeros_like(own).index_add_(0, self.edge_item, sent)
        return own + received / self.edge_degree[:, None].sqrt()

    def forward(self, *batch: Tensor) -> Tensor:
        return self.rank(self.items(), *batch)

    def rank(
        self,
        items: Tensor,
        item: Tensor,
        seat: Tensor,
        felt: Tensor,
        text: Tensor,
        text_seat: Tensor,
        length: Tensor,
        together: Tensor,
    ) -> Tensor:
        """The same with the items' vectors given: they change only when the network learns."""
        without = self.shape.without
        mentions = self._mentions(items, item, seat, felt)
        said = self.dropout(torch.cat([mentions, *self._said(text, text_seat), self.length(length)], dim=-1))
        query = self.mix(said) + self.straight(mentions)
        scores = self.dropout(query) @ items.T + self.bias
        if "co-occurrence" not in without:
            first, second = self.together
            scores = scores + first * together + second * torch.log1p(100 * together.clamp_min(0))
        if "repetition" not in without:
            again = self.repeated(seat)[..., 0] * (item >= 0)
            scores = scores.scatter_add(1, item.clamp_min(0), again)
        return scores

    def _mentions(self, items: Tensor, item: Tensor, seat: Tensor, felt: Tensor) -> Tensor:
        """What was named, by who named it, how long ago, and how one felt, (B, D)."""
        vectors = items[item.clamp_min(0)]
        weight = self.seat(seat)[..., 0] + self.wanted(vectors)[..., 0]
        if "emotions" not in self.shape.without:
            weight = weight + self.feeling(felt)[..., 0]
            vectors = vectors + self.feelings(felt)
        return _attend(weight, vectors, item >= 0)

    def _said(self, text: Tensor, text_seat: Tensor) -> tuple[Tensor, Tensor]:
        """What was said, all together and by the last who spoke, (B, D) each."""
        there = text.abs().sum(-1) > 0
        heard = _attend(self.text_seat(text_seat)[..., 0] + self.heard(text)[..., 0], self.words(text), there)
        latest = self.latest(text[:, 0])
        if "text" in self.shape.without:
            return torch.zeros_like(heard), torch.zeros_like(latest)
        return heard, latest


def _zeros(count: int, width: int) -> nn.Embedding:
    table = nn.Embedding(count, width)
    nn.init.zeros_(table.weight)
    return table


def _attend(weight: Tensor, vectors: Tensor, there: Tensor) -> Tensor:
    """The mean of vectors by softmax of their weights; 0 where there is none."""
    shares = torch.softmax(weight.masked_fill(~there, -1e9), dim=-1) * there
    return (shares[..., None] * vectors).sum(-2)
