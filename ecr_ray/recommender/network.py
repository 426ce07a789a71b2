"""The layers of the recommender; model.py says what they are for. Imports torch, so nothing imports this at its top."""

import numpy as np
import torch
from torch import Tensor, nn

from ecr_ray.recommender import features
from ecr_ray.recommender.model import Given, Shape
from ecr_ray.records import EMOTIONS, ROLES

# One for every speaker and age of what was said.
SEATS = len(ROLES) * (features.OLDEST + 1)
# AdamW moves every weight by about its rate, however far it has to go: the few numbers that say how much somebody's
# mention, a sentence or co-occurrence counts are kept at a fifth of their size, and so learn five times as fast.
QUICK = 5.0
# No word piece may weigh more than e to the power of this.
LOUDEST = 4.0


class Network(nn.Module):
    """A batch (see model.batch_of) → scores of all items, (B, I). Parts that are left out have no weights."""

    def __init__(self, shape: Shape, given: Given) -> None:
        super().__init__()
        self.shape, width = shape, shape.width
        self._add_items(given)
        self.seat = _zeros(SEATS, 1)
        self.wanted = nn.Linear(width, 1)
        if "emotions" not in shape.without:
            self.feeling = nn.Linear(len(EMOTIONS), 1, bias=False)
            self.feelings = nn.Linear(len(EMOTIONS), width, bias=False)
            # Beside the items' small vectors whatever else they began with would be noise.
            nn.init.zeros_(self.feeling.weight)
            nn.init.zeros_(self.feelings.weight)
        if "text" not in shape.without:
            self._add_text()
        self.length = _zeros(features.LONGEST + 1, width)
        parts = 2 if "text" in shape.without else 5
        self.mix = nn.Sequential(
            nn.Linear(parts * width, 2 * width), nn.GELU(), nn.Dropout(shape.dropout), nn.Linear(2 * width, width)
        )
        self.straight = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.straight.weight)
        counts = given.popularity_I + 0.5
        self.bias = nn.Parameter(torch.from_numpy(np.log(counts / counts.sum())).float())
        if "co-occurrence" not in shape.without:
            self.together = nn.Parameter(torch.tensor([8.0, 1.0]) / QUICK)
        if "repetition" not in shape.without:
            self.repeated = _zeros(SEATS, 1)
        self.dropout = nn.Dropout(shape.dropout)

    def _add_text(self) -> None:
        shape = self.shape
        self.text_seat = _zeros(SEATS, 1)
        self.words, self.latest = (nn.Linear(shape.text_width, shape.width) for _ in range(2))
        self.heard = nn.Linear(shape.text_width, 1)
        self.pieces, self.piece_weight = nn.Embedding(shape.tokens, shape.width), _zeros(shape.tokens, 1)
        nn.init.normal_(self.pieces.weight, std=0.02)

    def _add_items(self, given: Given) -> None:
        shape = self.shape
        self.nodes = nn.Embedding(shape.nodes, shape.width)
        nn.init.normal_(self.nodes.weight, std=0.02)
        if "content" not in shape.without:
            self.content = nn.Linear(shape.text_width, shape.width, bias=False)
            content = torch.from_numpy(given.content_IH.astype(np.float32))
            self.register_buffer("content_IH", content, persistent=False)
        if "graph" not in shape.without:
            self.relations = nn.Embedding(2 * shape.relations, shape.width)
            nn.init.ones_(self.relations.weight)
            self._add_edges(given)

    def _add_edges(self, given: Given) -> None:
        edges = given.edges_E3[np.argsort(given.edges_E3[:, 0], kind="stable")]
        # Many edges bring the same: what a node sends by a relation is computed once.
        sent, which = np.unique(edges[:, 1:], axis=0, return_inverse=True)
        first = np.searchsorted(edges[:, 0], np.arange(self.shape.items))
        degree = np.bincount(edges[:, 0], minlength=self.shape.items).clip(1)
        kept = {"relation": sent[:, 0], "node": sent[:, 1], "sent": which.reshape(-1), "first": first}
        for name, values in kept.items():
            self.register_buffer(f"edge_{name}", torch.from_numpy(values.astype(np.int64)), persistent=False)
        self.register_buffer("edge_scale", torch.from_numpy(degree**-0.5).float()[:, None], persistent=False)

    def items(self) -> Tensor:
        """The items' vectors, (I, D)."""
        found = self.nodes.weight[: self.shape.items]
        if "graph" not in self.shape.without:
            sent = self.nodes(self.edge_node) * self.relations(self.edge_relation)
            found = found + _bags(self.edge_sent, sent, self.edge_first) * self.edge_scale
        if "content" not in self.shape.without:
            found = found + self.content(self.content_IH)
        return found

    def forward(self, *batch: Tensor) -> Tensor:
        return self.rank(self.items(), *batch)

    def rank(
        self,
        items: Tensor,
        item: Tensor,
        seat: Tensor,
        felt: Tensor,
        text: Tensor,
        token: Tensor,
        token_start: Tensor,
        text_seat: Tensor,
        length: Tensor,
        together: Tensor,
    ) -> Tensor:
        """The same with the items' vectors given: they change only when the network learns."""
        without = self.shape.without
        mentions = self._mentions(items, item, seat, felt)
        told = [mentions, self.length(length)]
        if "text" not in without:
            told += [*self._said(text, text_seat), self._pieces(token, token_start, text_seat)]
        told = self.dropout(torch.cat(told, dim=-1))
        query = self.mix(told) + self.straight(mentions)
        scores = self.dropout(query) @ items.T + self.bias
        if "co-occurrence" not in without:
            first, second = QUICK * self.together
            scores = scores + first * together + second * torch.log1p(100 * together.clamp_min(0))
        if "repetition" not in without:
            again = QUICK * self.repeated(seat)[..., 0] * (item >= 0)
            scores = scores.scatter_add(1, item.clamp_min(0), again)
        return scores

    def _mentions(self, items: Tensor, item: Tensor, seat: Tensor, felt: Tensor) -> Tensor:
        """What was named, by who named it, how long ago, and how one felt, (B, D)."""
        vectors = items[item.clamp_min(0)]
        weight = QUICK * self.seat(seat)[..., 0] + self.wanted(vectors)[..., 0]
        if "emotions" not in self.shape.without:
            weight = weight + self.feeling(felt)[..., 0]
            vectors = vectors + self.feelings(felt)
        return _attend(weight, vectors, item >= 0)

    def _said(self, text: Tensor, text_seat: Tensor) -> tuple[Tensor, Tensor]:
        """Sentences: all together, and the last one, (B, D) each."""
        there = text.abs().sum(-1) > 0
        weight = QUICK * self.text_seat(text_seat)[..., 0] + self.heard(text)[..., 0]
        return _attend(weight, self.words(text), there), self.latest(text[:, 0])

    def _pieces(self, token: Tensor, start: Tensor, text_seat: Tensor) -> Tensor:
        """Word pieces, by their weight and that of the sentence, over the root of all weights, (B, D)."""
        weight = torch.exp(self.piece_weight(token)[..., 0].clamp(max=LOUDEST))
        if self.training:
            weight = weight * (torch.rand_like(weight) >= self.shape.word_dropout)
        bags = _bags(token, self.pieces.weight, start, weight).view(*text_seat.shape, -1)
        mass = torch.zeros_like(start, dtype=weight.dtype).index_add(0, _owner(start, len(token)), weight)
        seats = torch.exp(QUICK * self.text_seat(text_seat))
        total = (seats[..., 0] * mass.view(text_seat.shape)).sum(-1, keepdim=True)
        return (seats * bags).sum(-2) / total.clamp_min(1e-3).sqrt()


def _bags(index: Tensor, rows: Tensor, start: Tensor, weight: Tensor | None = None) -> Tensor:
    """Sums of rows, those of each bag beginning at its start, (bags, D)."""
    return nn.functional.embedding_bag(index, rows, start, mode="sum", per_sample_weights=weight)


def _owner(start: Tensor, count: int) -> Tensor:
    """The bag of every place, (count,): the last one that begins at or before it."""
    return torch.searchsorted(start, torch.arange(count, device=start.device), right=True) - 1


def _zeros(count: int, width: int) -> nn.Embedding:
    table = nn.Embedding(count, width)
    nn.init.zeros_(table.weight)
    return table


def _attend(weight: Tensor, vectors: Tensor, there: Tensor) -> Tensor:
    """The mean of vectors by softmax of their weights; 0 where there is none."""
    shares = torch.softmax(weight.masked_fill(~there, -1e9), dim=-1) * there
    return (shares[..., None] * vectors).sum(-2)
