"""Targets: read and checked, mixed with hindsight, with where each came from."""

import numpy as np
import pyarrow as pa
import pytest

from ecr_ray import records, storage
from ecr_ray.critic import targets
from ecr_ray.data.ratings import Rated
from ecr_ray.data.reading import InputError

ASPECTS = ("empathy", "informativeness", "recommendation", "engagement")


def message(role, words):
    return {"role": role, "text": words, "movie_ids": [], "emotions": []}


def artifact(path, scores, *, split="train", rubric="ecr-ma", columns=None, liked=None):
    """An artifact as jobs/score.py leaves it: dialogue d-N with one turn each and a reaction to it."""
    turns, dialogues, rows = [], [], []
    for n, value in enumerate(scores):
        said = [message("seeker", f"Number {n}"), message("recommender", f"Film {n}"), message("seeker", f"Thanks {n}")]
        dialogues.append({"dialogue_id": f"d-{n}", "split": split, "messages": said, "mentions": []})
        turns.append(
            {
                "turn_id": f"d-{n}:1", "dialogue_id": f"d-{n}", "index": 1, "split": split, "context": said[:1],
                "response": said[1]["text"], "target_movie_ids": ["1", "2"], "target_liked": liked or [None, None],
            }
        )  # fmt: skip
        names = [*ASPECTS, "overall"]
        spread = {f"{name}_spread": None for name in names}
        judges = 0 if value is None else 1
        rows.append(
            {"turn_id": f"d-{n}:1", "dialogue_id": f"d-{n}", "index": 1, "judges": judges}
            | dict.fromkeys(names, value)
            | spread
        )
    table = pa.Table.from_pylist(rows, schema=records.target_schema(ASPECTS))
    storage.write_parquet(path / "targets.parquet", table.select(columns) if columns else table)
    storage.write_parquet(path / "turns" / "part-0.parquet", pa.Table.from_pylist(turns, schema=records.TURN))
    storage.write_parquet(
        path / "dialogues" / "part-0.parquet", pa.Table.from_pylist(dialogues, schema=records.DIALOGUE)
    )
    storage.write_json(path / "run.json", {"stage": "score", "config": {"rubric": rubric}})
    return str(path)


def test_turns_come_with_scores_forms_and_the_next_message(tmp_path):
    rubric, turns = targets.read([artifact(tmp_path, [0.25, None], liked=[1, 0])], 0.15)
    assert rubric == "ecr-ma" and [turn.turn_id for turn in turns] == ["d-0:1", "d-1:1"]
    assert turns[0].scores == dict.fromkeys([*ASPECTS, "overall"], 0.25) | {"liked": 0.5}
    assert turns[0].weights["overall"] == 0.5 and turns[0].reaction_text == "Thanks 0"
    # Nobody spoke: nothing is known, and nothing is made up.
    assert turns[1].scores == {"liked": 0.5}


def test_what_did_not_say_is_not_a_dislike(tmp_path):
    _, (turn,) = targets.read([artifact(tmp_path, [0.5], liked=[2, None])], 0.15)
    assert "liked" not in turn.scores


@pytest.mark.parametrize(("value", "said"), [(1.5, "1.5 is not a score in 0-1"), (float("nan"), "nan is not a score")])
def test_a_score_that_is_none_is_refused_by_file_row_and_field(tmp_path, value, said):
    with pytest.raises(InputError, match=rf"targets.parquet, row 2 \(turn d-1:1\), empathy: {said}"):
        targets.read([artifact(tmp_path, [0.5, value])], 0.15)


def test_a_missing_aspect_is_named(tmp_path):
    columns = [name for name in records.target_schema(ASPECTS).names if name != "engagement"]
    with pytest.raises(InputError, match=r"targets.parquet: column 'engagement' is missing"):
        targets.read([artifact(tmp_path, [0.5], columns=columns)], 0.15)


def test_a_dialogue_in_two_splits_or_twice_is_refused(tmp_path):
    one, two = artifact(tmp_path / "a", [0.5]), artifact(tmp_path / "b", [0.5], split="valid")
    with pytest.raises(InputError, match=r"turn d-0:1, split: dialogue d-0 is in valid here and in train in .*/a"):
        targets.read([one, two], 0.15)
    with pytest.raises(InputError, match="turn d-0:1 is in the targets twice"):
        targets.read([one, one], 0.15)


def test_artifacts_of_two_rubrics_or_of_none(tmp_path):
    one, two = artifact(tmp_path / "a", [0.5]), artifact(tmp_path / "b", [0.5], rubric="ecr")
    with pytest.raises(InputError, match="is of the rubric ecr, the artifacts before of ecr-ma"):
        targets.read([one, two], 0.15)
    with pytest.raises(InputError, match=r"nothing is not a finished artifact of jobs/score.py"):
        targets.read([str(tmp_path / "nothing")], 0.15)


def test_judges_count_by_how_many_they_are_and_how_far_apart():
    assert targets.judge_weight(1, None, 0.15) == 0.5
    assert targets.judge_weight(2, 0.0, 0.15) == 2
    assert targets.judge_weight(2, 0.15, 0.15) == 1
    assert targets.judge_weight(4, 0.3, 0.15) == pytest.approx(0.8)


def turn(**scores):
    made = targets.Turn("d:1", "d", 1, "train", [], "Watch Heat (1995).")
    for head, value in scores.items():
        made.put(head, value, 1.0, "reader" if head == "reaction" else "judges")
    return made


def test_overall_is_mixed_where_both_are_known():
    both, one, other = turn(overall=0.2, reaction=0.6), turn(overall=0.2), turn(reaction=0.6)
    targets.mix([both, one, other], 0.25)
    assert both.scores["overall"] == pytest.approx(0.3) and both.sources["overall"] == "judges+reader"
    assert one.scores["overall"] == 0.2 and one.sources["overall"] == "judges"
    assert other.scores["overall"] == 0.6 and other.sources["overall"] == "reader"
    alone = turn(overall=0.2, reaction=0.6)
    targets.mix([alone], 1.0)
    assert alone.scores["overall"] == 0.6 and alone.sources["overall"] == "reader"


def test_people_stand_in_for_the_reader():
    mine = turn(reaction=0.9)
    people = Rated("d", 1, [], "watch Heat\n(1995).", {"satisfaction": [1.0, 3.0]})
    assert targets.add_people([mine], [people, Rated("x", 1, [], "no", {"satisfaction": [5.0]})]) == 1
    assert mine.scores["reaction"] == 0.25 and mine.sources["reaction"] == "people"


def test_a_reaction_readers_rows():
    one = Rated("d", 1, [{"role": "seeker", "text": "Hi"}], "Heat", {"satisfaction": [5.0, 3.0]}, "Great!")
    silent = Rated("d", 3, [], "Alien", {"satisfaction": [5.0]})
    (row,) = targets.rated([one, silent])
    assert row.scores == {"satisfaction": 0.75} and row.weights == {"satisfaction": 2}
    contexts, texts = targets.reader_view([(row.context, row.response, row.reaction_text)])
    assert [m["text"] for m in contexts[0]] == ["Hi", "Heat"] and texts == ["Great!"]


def test_the_table_says_where_everything_came_from():
    table = targets.table([turn(overall=0.2), turn(reaction=0.5)], ("reaction", "overall"))
    assert table["overall"].to_pylist() == [pytest.approx(0.2), None]
    assert table["reaction_from"].to_pylist() == [None, "reader"] and table["overall_weight"].to_pylist() == [1, 0]
    values, weights = targets.arrays([turn(overall=0.2)], ("reaction", "overall"))
    assert np.isnan(values[0, 0]) and weights.tolist() == [[0, 1]]


def test_the_heads():
    assert targets.heads("ecr-ma", hindsight=True) == (*ASPECTS, "reaction", "liked", "overall")
    assert targets.heads("ecr-ma", hindsight=False) == (*ASPECTS, "overall")
