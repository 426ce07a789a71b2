import json

import pyarrow as pa
import pytest

from ecr_ray import storage


@pytest.mark.parametrize("scheme", ["", "file://", "memory://"])
def test_a_directory_of_files_is_written_listed_read_and_removed(tmp_path, scheme):
    base = f"{scheme}{tmp_path}/x"
    table = pa.table({"a": [1, 2]})
    storage.write_parquet(storage.join(base, "deep", "t.parquet"), table)
    storage.write_json(storage.join(base, "b.json"), {"é": 1})
    storage.write_bytes(storage.join(base, ".hidden", "c.json"), b"{}")
    assert [f.rsplit("/", 1)[1] for f in storage.list_files(base)] == ["b.json", "t.parquet"]
    assert storage.list_files(base, (".parquet",)) == [storage.join(base, "deep", "t.parquet")]
    assert storage.read_parquet(storage.join(base, "deep", "t.parquet")).equals(table)
    assert storage.read_json(storage.join(base, "b.json")) == {"é": 1}
    assert storage.is_dir(storage.join(base, "deep"))
    storage.remove(base)
    assert not storage.exists(storage.join(base, "b.json"))
    storage.remove(base)


def test_a_file_that_fails_half_way_never_appears_and_leaves_nothing(tmp_path):
    (tmp_path / "a.json").write_text("old")
    with pytest.raises(RuntimeError), storage.open_atomic(tmp_path / "a.json") as stream:
        stream.write(b"half")
        raise RuntimeError
    assert (tmp_path / "a.json").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_is_an_error_and_not_a_short_file(tmp_path):
    import shutil
    import subprocess

    if (
        not shutil.which("mount")
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True
        ).returncode
    ):
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        with pytest.raises(OSError, match="No space left"):
            storage.write_bytes(tmp_path / "big", b"x" * 200_000)
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_an_unknown_scheme_is_named():
    with pytest.raises(ValueError, match="nosuch://"):
        storage.open_fs("nosuch://bucket/x")


def test_the_digest_is_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    found = storage.digest(tmp_path / "a")
    assert found["bytes"] == 3
    assert found["sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    json.dumps(found)


def test_a_place_that_means_the_same_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("runs/x") == str(tmp_path / "runs" / "x")
    assert storage.absolute(str(tmp_path)) == str(tmp_path)
    assert storage.absolute("s3://bucket/runs") == "s3://bucket/runs"
