"""The Grafana boards; tests/integration/test_watching.py runs their queries."""

import json

import pytest

from ecr_ray.cluster import boards


@pytest.mark.parametrize("board", boards.BOARDS, ids=lambda board: board.name)
def test_the_file_is_what_the_code_says(board):
    assert (boards.DIRECTORY / f"{board.name}.json").read_text() == boards.to_json(board), (
        "run `python -m ecr_ray.cluster.boards`"
    )


def test_there_is_no_other_file():
    assert {path.stem for path in boards.DIRECTORY.iterdir()} == {board.name for board in boards.BOARDS}


@pytest.mark.parametrize("board", boards.BOARDS, ids=lambda board: board.name)
def test_panels_do_not_overlap(board):
    taken = set()
    for panel in json.loads(boards.to_json(board))["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_a_query_names_only_metrics_that_exist():
    assert boards.rate("ecr_score_rows", "judge", outcome="ok") == (
        'sum by (judge) (rate(ray_ecr_score_rows_total{SessionName=~"$session",outcome="ok"}[$__rate_interval]))'
    )
    with pytest.raises(KeyError):
        boards.of("ecr_score_cows")
