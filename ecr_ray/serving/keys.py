"""API keys: `python -m ecr_ray.serving.keys add NAME`, `list`, `remove NAME`.

A key is shown once, when it is made. The file has its SHA-256 only: a key is 256 random bits, which no list of likely
ones holds, so that a slow hash would protect nothing more.
"""

import argparse
import hashlib
import hmac
import json
import os
import secrets
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ecr_ray import cli
from ecr_ray.errors import UserError

PREFIX = "ecr"
# How long a removed key may still work.
LOOK_S = 2.0
USUAL = "runs/serve/keys.json"


class KeyFileError(UserError):
    """A key file that cannot be read, or a name that cannot be used."""


@dataclass(frozen=True)
class Key:
    """What is kept of a key."""

    name: str
    number: str
    """Public part of the key: finds it in the file."""
    sha256: str
    admin: bool
    created: str


def make(name: str, *, admin: bool) -> tuple[str, Key]:
    """A new key, and what is kept of it."""
    number, secret = secrets.token_hex(4), secrets.token_hex(32)
    text = f"{PREFIX}_{number}_{secret}"
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return text, Key(name, number, _hash(text), admin, created)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def read(path: Path) -> list[Key]:
    """The keys of a file; none where there is no file.

    Raises:
        KeyFileError: it is damaged.
    """
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_text())["keys"]
        return [Key(**{f.name: row[f.name] for f in fields(Key)}) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KeyFileError(f"{path} is no key file ({error!r}): restore it, or move it away and add keys") from error


def write(path: Path, keys: list[Key]) -> None:
    """Replace a file at once; nobody else may read it."""
    content = {"keys": [asdict(key) for key in keys]}
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(json.dumps(content, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(staging, path)


class Keyring:
    """Who may ask: looks at the file again now and then."""

    def __init__(self, path: Path) -> None:
        self._path, self._looked, self._stamp = path, -LOOK_S, None
        self._keys: dict[str, Key] = {}
        self._look()

    def who(self, presented: str) -> Key | None:
        """The key that was presented; None if it is none. As long for a wrong one as for a right one."""
        self._look()
        parts = presented.split("_", 2)
        found = self._keys.get(parts[1]) if len(parts) == 3 else None
        same = hmac.compare_digest(found.sha256 if found else "0" * 64, _hash(presented))
        return found if same else None

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        stat = self._path.stat() if self._path.exists() else None
        stamp = (stat.st_mtime_ns, stat.st_ino, stat.st_size) if stat else ()
        if stamp != self._stamp:
            self._keys, self._stamp = {key.number: key for key in read(self._path)}, stamp


def main() -> int:
    """Add, list or remove keys."""
    parser = argparse.ArgumentParser(prog="python -m ecr_ray.serving.keys", description=__doc__)
    parser.add_argument("--file", type=Path, default=Path(USUAL), help=f"the key file; {USUAL} by default")
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", help="make a key and print it, once")
    add.add_argument("name", help="whom it is for")
    add.add_argument("--admin", action="store_true", help="it may also change adapters")
    commands.add_parser("list", help="names and dates")
    remove = commands.add_parser("remove", help="end a key; a running endpoint knows within seconds")
    remove.add_argument("name")
    chosen = parser.parse_args()
    keys = read(chosen.file)
    if chosen.command == "list":
        for key in keys:
            print(f"{key.name:<24} {PREFIX}_{key.number}_…  {key.created}{'  admin' if key.admin else ''}")
        return 0
    names = {key.name for key in keys}
    if chosen.command == "add":
        if chosen.name in names:
            raise KeyFileError(f"{chosen.file} has a key named {chosen.name} already: remove it, or take another name")
        text, key = make(chosen.name, admin=chosen.admin)
        write(chosen.file, [*keys, key])
        print(text)
        print("keep it: it is not shown again", file=sys.stderr)
        return 0
    if chosen.name not in names:
        raise KeyFileError(f"{chosen.file} has no key named {chosen.name}")
    write(chosen.file, [key for key in keys if key.name != chosen.name])
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
