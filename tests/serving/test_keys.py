"""API keys."""

import json
import os
import stat
import subprocess
import sys

import pytest

from ecr_ray.serving import keys


def command(path, *words):
    line = [sys.executable, "-m", "ecr_ray.serving.keys", "--file", str(path), *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)


def test_a_key_is_shown_once_and_kept_as_a_hash(tmp_path):
    path = tmp_path / "deep" / "keys.json"
    made = command(path, "add", "anna")
    text = made.stdout.strip()
    assert made.returncode == 0 and text.startswith("ecr_") and len(text) > 50
    assert text.rpartition("_")[2] not in path.read_text() and stat.S_IMODE(os.stat(path).st_mode) == 0o600
    ring = keys.Keyring(path)
    assert ring.who(text).name == "anna" and not ring.who(text).admin
    for wrong in ("", "ecr", text[:-1], text + "x", "ecr_00000000_x", text.replace(text[4:12], "00000000"), "é" * 9):
        assert ring.who(wrong) is None


def test_a_removed_key_ends(tmp_path, monkeypatch):
    path = tmp_path / "keys.json"
    one, two = (command(path, "add", name, "--admin").stdout.strip() for name in ("one", "two"))
    assert [line.split()[0] for line in command(path, "list").stdout.splitlines()] == ["one", "two"]
    monkeypatch.setattr(keys, "LOOK_S", 0.0)
    ring = keys.Keyring(path)
    assert ring.who(one).admin
    assert command(path, "remove", "one").returncode == 0
    assert ring.who(one) is None and ring.who(two) is not None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [(("add", "anna"), "has a key named anna already"), (("remove", "bert"), "has no key named bert")],
)
def test_what_cannot_be_is_one_sentence(tmp_path, words, sentence):
    path = tmp_path / "keys.json"
    command(path, "add", "anna")
    found = command(path, *words)
    assert found.returncode == 1 and sentence in found.stderr and "Traceback" not in found.stderr


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"keys": [{"name": "x"}]})])
def test_a_damaged_file_is_said(tmp_path, content):
    (tmp_path / "keys.json").write_text(content)
    with pytest.raises(keys.KeyFileError, match=r"keys\.json is no key file"):
        keys.Keyring(tmp_path / "keys.json")
