"""The recommender through its front door: trained on real Ray Train workers, one of them killed, and asked."""

import json
import signal

import numpy as np
import pyarrow.parquet as pq
import pytest

from ecr_ray.recommender import predict
from tests.integration.jobs import finish, job, processes, until

pytestmark = pytest.mark.slow


def curve(directory):
    rows = pq.read_table(directory / "curve.parquet").to_pylist()
    return [(row["step"], row["loss"]) for row in rows if row["network"] == "network 1"]


def test_it_learns_and_says_how_well(pipeline):
    out = pipeline.out / "recommender"
    printed = (pipeline.out / "logs" / "recommender.log").read_text()
    losses = [loss for _, loss in curve(out)]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    run = json.loads((out / "run.json").read_text())
    rows = {(r["model"], r["protocol"], r["measure"]): r for r in run["measures"]["test"]}
    ours = rows["ecr_ray", "published", "R@50"]
    assert ours["low"] <= ours["value"] <= ours["high"] and ours["n"] == run["rows"]["test_films"]
    names = {name for name, *_ in rows}
    assert {"popularity", "EASE", "neighbours of the last film", "text similarity"} <= names
    assert rows["popularity", "published", "R@50"]["ahead"]["value"] == pytest.approx(
        ours["value"] - rows["popularity", "published", "R@50"]["value"]
    )
    assert rows["ecr_ray", "masked", "R@10"]["n"] <= rows["ecr_ray", "published", "R@10"]["n"]
    assert "test, published: ecr_ray R@1" in printed and "one item" in printed
    ranks = pq.read_table(out / "ranks.parquet")
    test = ranks.filter(np.array(ranks["split"].to_pylist()) == "test")
    assert np.mean(test["rank: ecr_ray"].to_numpy() <= 50) == pytest.approx(ours["value"])
    page = (out / "summary.html").read_text()
    assert "What it recommends, and why" in page and "<svg" in page and "<script" not in page
    assert not (out / ".work").exists() and run["turns_with_emotions"] > 50


@pytest.mark.long
def test_several_networks_rank_together_and_one_goes_without_a_part(cluster, tmp_path):
    words = ["--members", 2, "--ablate", "graph", "--epochs", 2, "--bootstrap", 50]
    finish(job("train_recommender", "--output", tmp_path / "out", *words))
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    names = {row["model"] for row in run["measures"]["test"]}
    assert {"network 1", "network 2", "without graph"} <= names and {"network 1", "without graph"} <= set(run["result"])


@pytest.mark.long
def test_two_workers_one_of_them_killed_give_the_same_run(cluster, tmp_path):
    one, two, common = tmp_path / "one", tmp_path / "two", ["--log-every", 1, "--bootstrap", 50]
    finish(job("train_recommender", "--output", one, *common))
    process = job("train_recommender", "--output", two, *common, "--workers", 2, "--zero-stage", 1)
    until(lambda: list((two / ".work" / "network-1" / "checkpoints").glob("checkpoint-*/complete.json")), process)
    processes("RayTrainWorker")[0].send_signal(signal.SIGKILL)
    finish(process)
    (steps, losses), (again, found) = (zip(*curve(place), strict=True) for place in (one, two))
    assert steps == again and found == pytest.approx(losses, rel=2e-3)


def test_it_recommends_with_reasons(pipeline):
    recommender = predict.Recommender(pipeline.out / "recommender" / "model")
    asked = [{"role": "seeker", "text": "I loved John Wick (2014), Keanu Reeves is great. Something like it?"}]
    found = recommender.recommend(asked, 10)
    assert len(found.films) == 10 and len({film.item_id for film in found.films}) == 10
    assert found.mentioned == ("91626",) and "91626" not in {film.item_id for film in found.films}
    assert all(film.reason.text and 0 < film.score < 1 for film in found.films)
    assert found.note == "" and any("John Wick (2014)" in film.reason.text for film in found.films)
    again = recommender.recommend(asked, 200, again=True)
    assert "91626" in {film.item_id for film in again.films}
    nothing = recommender.recommend([], 3)
    assert len(nothing.films) == 3 and "nothing has been said yet" in nothing.note
    words = recommender.recommend([{"role": "seeker", "text": "something scary please"}], 3)
    assert "no film of the catalogue was named" in words.note
    # The same question, the same answer; what it knows of names is what the run was told.
    assert recommender.recommend(asked, 10) == found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--without", "emotion"], "there is no such part; did you mean 'emotions'?"),
        (["--catalogue", "nowhere.csv"], "there is no such file"),
        (["--input", "nowhere"], "there is no file or directory 'nowhere'"),
    ],
)
def test_it_says_what_is_wrong(words, said, tmp_path):
    assert said in finish(job("train_recommender", *words, "--output", tmp_path / "out"), code=1)
