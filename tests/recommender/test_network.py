"""The network: what each part does to the scores, and what a batch is."""

import dataclasses

import numpy as np
import pytest
import torch

from ecr_ray.data.knowledge import Fact, Film
from ecr_ray.recommender import catalogue, features, model
from ecr_ray.recommender.examples import Mention, Turn
from ecr_ray.recommender.network import QUICK
from ecr_ray.records import EMOTIONS

CATALOGUE = catalogue.of_films(
    [Film(str(n), f"Film {n}", 1990 + n, (Fact("", "genre", "ab"[n % 2]),)) for n in range(5)]
)
HAPPY = tuple(float(name == "happy") for name in EMOTIONS)
TURNS = [
    Turn("d", 2, ("x", "y"), (0, 1), (Mention(3, 0, 0, HAPPY), Mention(1, 1, 1))),
    Turn("d", 0, (), (), ()),
]
NUMBERS = features.texts_of(TURNS)
RNG = np.random.default_rng(0)
TEXTS = features.Texts.of(RNG.normal(size=(len(NUMBERS), 6)).astype(np.float16), [[3, 4, 3], [5]])
COUNTS = np.array([5.0, 1, 1, 1, 0])
GIVEN = model.Given(model.edges_of(CATALOGUE.graph, 5), RNG.normal(size=(5, 6)), COUNTS)


def shape(*without):
    graph = CATALOGUE.graph
    return model.Shape(
        5,
        len(graph.names),
        len(graph.relations),
        6,
        9,
        "minilm",
        width=8,
        dropout=0.0,
        word_dropout=0.0,
        without=without,
    )


def batch(together=None):
    zeros = np.zeros((2, 5), np.float32)
    return model.batch_of(features.of_turns(TURNS, NUMBERS), TEXTS, zeros if together is None else together)


def scores(*without, together=None, change=lambda network: None):
    torch.manual_seed(0)
    network = model.build(shape(*without), GIVEN).eval()
    with torch.inference_mode():
        change(network)
        return network(*batch(together)).numpy()


def test_edges_reach_items_in_both_directions():
    graph = catalogue.Graph(("a", "b", "x"), ("r", "s"), np.array([[0, 0, 2], [2, 1, 1], [0, 1, 1]]))
    # a→x, a→b as they are; against the arrow b is reached from x and from a, by relations of their own.
    assert model.edges_of(graph, 2).tolist() == [[0, 0, 2], [0, 1, 1], [1, 3, 2], [1, 3, 0]]


def test_it_begins_with_what_is_popular():
    found = scores("text", "content")
    assert found.shape == (2, 5) and np.isfinite(found).all()
    expected = np.log(COUNTS + 0.5) - np.log((COUNTS + 0.5).sum())
    # Nothing was said or named: what is left are lengths that begin at 0, and a network's small start.
    assert found[1] == pytest.approx(expected, abs=0.2)


def test_what_is_named_together_counts_unless_it_is_left_out():
    together = np.zeros((2, 5), np.float32)
    together[:, 2] = 0.5
    assert (scores(together=together) - scores())[:, 2] == pytest.approx(8 * 0.5 + np.log1p(50), rel=1e-3)
    assert scores("co-occurrence", together=together) == pytest.approx(scores("co-occurrence"))


def test_having_been_named_counts_by_whom_and_how_long_ago():
    def change(network):
        network.repeated.weight.zero_()
        # The seeker, two turns ago.
        network.repeated.weight[2] = 3.0 / QUICK

    difference = scores(change=change) - scores()
    assert difference.round(4).tolist() == [[0, 0, 0, 3, 0], [0] * 5]


def test_feelings_words_facts_and_graph_change_scores():
    def feel(network):
        network.feelings.weight.add_(1.0)

    assert abs(scores(change=feel) - scores()).max() > 1e-3

    def hear(network):
        network.words.weight.add_(1.0)

    assert abs(scores(change=hear) - scores()).max() > 1e-3

    def read(network):
        network.pieces.weight[3] += 1.0

    assert abs(scores(change=read) - scores()).max() > 1e-3

    def describe(network):
        network.content.weight.mul_(50)

    assert abs(scores(change=describe) - scores()).max() > 1e-3

    def link(network):
        network.relations.weight.mul_(50)

    assert abs(scores(change=link) - scores()).max() > 1e-3


@pytest.mark.parametrize("part", model.PARTS)
def test_a_part_that_is_left_out_has_no_weights_and_all_others_learn(part):
    network = model.build(shape(part), GIVEN)
    network(*batch(np.full((2, 5), 0.1, np.float32))).logsumexp(-1).sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    whole = {name for name, _ in model.build(shape(), GIVEN).named_parameters()}
    left_out = whole - {name for name, _ in network.named_parameters()}
    expected = {
        "emotions": {"feeling.weight", "feelings.weight"},
        "graph": {"relations.weight"},
        "content": {"content.weight"},
        "co-occurrence": {"together"},
        "repetition": {"repeated.weight"},
        "weights": set(),
    }
    assert left_out == expected.get(part, left_out) and (part != "text" or "pieces.weight" in left_out)


def test_members_rank_by_the_mean_of_their_probabilities():
    networks = [model.build(shape(), GIVEN).eval() for _ in range(2)]
    both = model.Members(networks)
    with torch.inference_mode():
        found = both.rank(both.items(), *batch()).exp()
        assert torch.allclose(found, sum(torch.softmax(n(*batch()), -1) for n in networks) / 2, atol=1e-6)


def test_given_items_change_nothing():
    torch.manual_seed(0)
    network = model.build(shape(), GIVEN).eval()
    with torch.inference_mode():
        assert torch.equal(network.rank(network.items(), *batch()), network(*batch()))


def test_an_item_is_its_own_vector_and_what_its_neighbours_send_by_relation():
    network = model.build(shape("content"), GIVEN).eval()
    with torch.inference_mode():
        network.relations.weight[0] = 2.0
        found = network.items()
        # Film 0 is of the genre "a" (node 5) and of the 1990s: degree 2.
        assert CATALOGUE.graph.names[5] == "a" and CATALOGUE.graph.relations == ("genre", "decade")
        nodes = network.nodes.weight
        decade = CATALOGUE.graph.names.index("1990s")
        assert torch.allclose(found[0], nodes[0] + (2 * nodes[5] + nodes[decade]) / 2**0.5, atol=1e-6)


def test_word_pieces_are_summed_by_weight_over_the_root_of_all_weights():
    network = model.build(shape(), GIVEN).eval()
    _, _, _, _, token, start, text_seat, _, _ = batch()
    assert token.tolist() == [3, 4, 3, 5] and start.tolist()[:3] == [0, 3, 4]
    with torch.inference_mode():
        network.piece_weight.weight[5] = np.log(2.0)
        # The recommender's text, the newest one, is heard three times as loud.
        network.text_seat.weight[text_seat[0, 0]] = np.log(3.0) / QUICK
        found, piece = network._pieces(token, start, text_seat), network.pieces.weight
        expected = (3 * (2 * piece[3] + piece[4]) + 2 * piece[5]) / (3 * 3 + 2) ** 0.5
        assert torch.allclose(found[0], expected, atol=1e-6) and not found[1].any()


def test_words_that_are_not_heard_are_not_learnt_from():
    network = model.build(dataclasses.replace(shape(), word_dropout=1.0), GIVEN).train()
    _, _, _, _, token, start, text_seat, _, _ = batch()
    assert not network._pieces(token, start, text_seat).any()
    assert network.eval()._pieces(token, start, text_seat)[0].any()


def test_what_the_encoder_is_told_of_an_item():
    facts = tuple(Fact("", "star", f"S{n}") for n in range(9))
    item = catalogue.Item("1", "Heat", 1995, (Fact("", "genre", "crime"), *facts))
    assert model.content_of(item) == "Heat (1995). genre: crime. star: S0, S1, S2, S3, S4, S5."
    assert model.content_of(catalogue.Item("2", "Alien", None)) == "Alien."


def test_a_catalogue_without_any_fact_is_ranked_and_learnt_all_the_same():
    bare = catalogue.of_films([Film(str(n), f"Film {n}", None, ()) for n in range(5)])
    sizes = (5, len(bare.graph.names), len(bare.graph.relations), 6, 9)
    given = dataclasses.replace(GIVEN, edges_E3=model.edges_of(bare.graph, 5))
    network = model.build(model.Shape(*sizes, "minilm", width=8), given)
    network(*batch()).logsumexp(-1).sum().backward()
    torch.optim.AdamW(network.parameters()).step()
    assert torch.isfinite(network.eval()(*batch())).all()
