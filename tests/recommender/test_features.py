"""Turns as arrays, by hand."""

import numpy as np

from ecr_ray.recommender import features
from ecr_ray.recommender.examples import Mention, Turn
from ecr_ray.records import EMOTIONS

FELT = tuple(0.5 if name == "happy" else 0.0 for name in EMOTIONS)
TURNS = [
    Turn("d", 0, (), (), ()),
    Turn("d", 3, ("a", "b", "c"), (0, 1, 0), (Mention(5, 1, 1), Mention(7, 0, 2, FELT))),
    Turn("d", 40, tuple(f"t{n}" for n in range(40)), (0, 1) * 20, tuple(Mention(n, 0, n) for n in range(20))),
]


def test_the_newest_comes_first_and_what_is_not_there_is_marked():
    numbers = features.texts_of(TURNS)
    found = features.of_turns(TURNS, numbers)
    assert len(found) == 3 and (found.item_ML[0] == -1).all() and (found.text_MK[0] == -1).all()
    assert found.item_ML[1, :3].tolist() == [7, 5, -1] and found.role_ML[1, :2].tolist() == [0, 1]
    assert found.age_ML[1, :2].tolist() == [1, 2] and found.felt_MLE[1, 0].tolist() == list(FELT)
    assert not found.felt_MLE[1, 1].any()
    names = list(numbers)
    assert [names[n] for n in found.text_MK[1, :3]] == ["c", "b", "a"] and found.speaker_MK[1, :3].tolist() == [0, 1, 0]


def test_of_much_the_newest_is_kept():
    numbers = features.texts_of(TURNS)
    found = features.of_turns(TURNS, numbers)
    assert found.item_ML[2].tolist() == list(range(19, 19 - features.MENTIONS, -1))
    assert (found.age_ML[2] == features.OLDEST).all() and found.length_M.tolist() == [0, 3, features.LONGEST]
    assert "t31" not in numbers and {"t39", "t32"} <= set(numbers)


def test_a_file_gives_them_back(tmp_path):
    found = features.of_turns(TURNS, features.texts_of(TURNS))
    found.save(tmp_path / "x.npz")
    again = features.Features.load(tmp_path / "x.npz")
    assert all(np.array_equal(a, b) for a, b in zip(vars(found).values(), vars(again).values(), strict=True))
    assert found.of(np.array([1])).item_ML[0, 0] == 7


def test_texts_give_their_tokens_one_after_the_other(tmp_path):
    features.Texts.of(np.eye(4, 2, dtype=np.float16), [[7, 8], [], [9], [1, 2, 3]]).save(tmp_path)
    texts = features.Texts.load(tmp_path)
    token, start = texts.tokens_of(np.array([3, -1, 0, 1, 2]))
    assert token.tolist() == [1, 2, 3, 7, 8, 9] and start.tolist() == [0, 3, 3, 5, 5]
    token, start = texts.tokens_of(np.array([-1, -1]))
    assert token.tolist() == [] and start.tolist() == [0, 0] and texts.vector_UH.shape == (4, 2)
