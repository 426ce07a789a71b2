import json
import zipfile

import pyarrow as pa
import pytest

from ecr_ray import storage
from ecr_ray.data import reading
from ecr_ray.data.reading import InputError, Rejected
from tests.data.test_redial import DIALOGUE

LIMITS = {"max_message_chars": 1000, "number_rows": False}


def line(**changes):
    return (json.dumps({**DIALOGUE, **changes}) + "\n").encode()


def read(location, **limits):
    return list(reading.read(reading.find(str(location)), **{**LIMITS, **limits}))


def test_refused_lines_are_named_and_the_rest_is_read(tmp_path):
    file = tmp_path / "train_data.jsonl"
    file.write_bytes(line() + line()[:40] + b"\n" + b'{"a": "\xff"}\n\n' + line() + b"[1]\n" + line(conversationId="8"))
    rows = read(file)
    assert [r.value["dialogue_id"] for r in rows if not isinstance(r, Rejected)] == ["7", "8"]
    assert [str(r).removeprefix(f"{file}, ") for r in rows[2:-1]] == [
        "line 3, (line): byte 8 is not valid UTF-8",
        "line 5, conversationId: '7' is a duplicate of train_data.jsonl, line 1",
        "line 6, (line): not a JSON object",
    ]
    assert "line 2, (line): not valid JSON" in str(rows[1])
    assert rows[2].raw == '{"a": "\\xff"}'


def test_the_released_zip_is_read_member_by_member(tmp_path):
    file = tmp_path / "redial.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("train_data.jsonl", line())
        archive.writestr("test_data.jsonl", line(conversationId="8"))
        archive.writestr("__MACOSX/._train_data.jsonl", b"junk")
    assert {(r.value["dialogue_id"], r.value["split"]) for r in read(file)} == {("7", "train"), ("8", "test")}


def test_a_directory_and_a_uri_are_read_alike(tmp_path):
    (tmp_path / "test_a.jsonl").write_bytes(line())
    (tmp_path / "test_b.jsonl").write_bytes(line(conversationId="8"))
    assert len(read(tmp_path)) == len(read(f"file://{tmp_path}")) == 2


def test_parquet_of_this_project_comes_back_as_it_was(tmp_path):
    from ecr_ray.data import prepare

    (tmp_path / "test.jsonl").write_bytes(line())
    prepare.write_tables(
        str(tmp_path / "test.jsonl"),
        str(tmp_path / "out"),
        limit=None,
        max_message_chars=1000,
        number_rows=False,
    )
    (dialogue,) = read(tmp_path / "out" / "dialogues")
    assert dialogue.value == next(iter(read(tmp_path / "test.jsonl"))).value
    turns = [row.value for row in read(tmp_path / "out")]
    assert [t["turn_id"] for t in turns] == ["7:1", "7:3"]


@pytest.mark.parametrize(("name", "content"), [("a.zip", b"PK not"), ("a.parquet", b"PAR1 not")])
def test_a_corrupt_container_is_one_sentence(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} is not a readable"):
        read(tmp_path / name)


def test_what_is_not_there_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="there is no file or directory"):
        read(tmp_path / "no")
    with pytest.raises(InputError, match="holds no"):
        read(tmp_path)
    monkeypatch.delenv("ECR_DATA_DIR", raising=False)
    with pytest.raises(InputError, match="needs ECR_DATA_DIR"):
        reading.find("redial:test")
    with pytest.raises(InputError, match="the splits are"):
        reading.find("redial:dev")


def test_a_null_movie_in_a_turn_is_refused(tmp_path):
    storage.write_parquet(
        tmp_path / "t.parquet",
        pa.table({"turn_id": ["a:1"], "context": [["hi"]], "response": ["x"], "target_movie_ids": [[None]]}),
    )
    (row,) = read(tmp_path / "t.parquet")
    assert (row.field, row.reason) == ("target_movie_ids", "a movie id is null")


def test_rows_are_numbered_on_request(tmp_path):
    (tmp_path / "part_1.jsonl").write_text('{"context": ["a"], "resp": "b"}\n' * 2)
    assert [type(r) for r in read(tmp_path / "part_1.jsonl")] == [Rejected, Rejected]
    assert [r.value["turn_id"] for r in read(tmp_path / "part_1.jsonl", number_rows=True)] == [
        "part_1-1",
        "part_1-2",
    ]
