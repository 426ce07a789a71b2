"""The emotions of a dialogue that is going on, by the bundled classifier."""

import pytest

from ecr_ray.emotion import live
from ecr_ray.models import tiny

pytestmark = pytest.mark.skipif(not (tiny.HERE / live.BUNDLED).is_dir(), reason="the classifier is not in the package")


def test_it_reads_what_carries_no_emotions_and_remembers_it(monkeypatch):
    reader = live.Live()
    own = [{"label": "nostalgia", "prob": 0.7}]
    dialogue = [
        {"role": "seeker", "text": "Thank you so much, that is very kind"},
        {"role": "recommender", "text": "You are welcome", "emotions": own},
    ]
    found = reader.read(dialogue)
    assert found[0]["emotions"][0]["label"] == "grateful" and found[1]["emotions"] == own
    assert all(e["prob"] > live.KEEP_ABOVE for e in found[0]["emotions"]) and "emotions" not in dialogue[0]
    monkeypatch.setattr(reader, "_classifier", None)
    assert reader.read(dialogue) == found and reader.read([]) == []
