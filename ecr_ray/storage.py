"""Files by path or URI, local or remote, written whole or not at all.

Anything pyarrow knows (`s3://`, `gs://`, `hdfs://`, a plain path) is opened by pyarrow, the rest by fsspec.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq


def open_fs(location: str | Path) -> tuple[pafs.FileSystem, str]:
    """The filesystem behind `location` and the path within it.

    Raises:
        ValueError: neither pyarrow nor fsspec knows the scheme.
    """
    text = str(location)
    if "://" not in text:
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(text))
    try:
        return pafs.FileSystem.from_uri(text)
    except pa.ArrowInvalid:
        import fsspec

        try:
            fs, path = fsspec.core.url_to_fs(text)
        except (ValueError, ImportError) as error:
            raise ValueError(f"cannot open {text!r}: {error}") from error
        return pafs.PyFileSystem(pafs.FSSpecHandler(fs)), path


def absolute(path: str) -> str:
    """The same place for processes elsewhere in the cluster, whose working directory is another; URIs stay."""
    return path if "://" in path else os.path.abspath(path)


def join(location: str | Path, *parts: str) -> str:
    """`location/part/...` for paths and URIs alike."""
    return "/".join([str(location).rstrip("/"), *parts])


def exists(location: str | Path) -> bool:
    """Whether there is a file or directory at `location`."""
    fs, path = open_fs(location)
    return fs.get_file_info(path).type != pafs.FileType.NotFound


def is_dir(location: str | Path) -> bool:
    """Whether `location` is a directory."""
    fs, path = open_fs(location)
    return fs.get_file_info(path).type == pafs.FileType.Directory


def list_files(location: str | Path, suffixes: tuple[str, ...] = ()) -> list[str]:
    """The files below a directory in name order, hidden ones (`.x`, `_x`) left out, as full locations."""
    fs, path = open_fs(location)
    infos = fs.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
    root = path.rstrip("/")
    found = []
    for info in infos:
        relative = info.path[len(root) + 1 :] if info.path.startswith(root) else info.base_name
        hidden = any(part.startswith((".", "_")) for part in relative.split("/"))
        if info.type == pafs.FileType.File and not hidden and info.path.endswith(suffixes or ("",)):
            found.append(join(location, relative))
    return sorted(found)


def remove(location: str | Path) -> None:
    """Remove a file or a directory tree; nothing happens where there is none."""
    fs, path = open_fs(location)
    kind = fs.get_file_info(path).type
    if kind == pafs.FileType.Directory:
        fs.delete_dir(path)
    elif kind == pafs.FileType.File:
        fs.delete_file(path)


@contextmanager
def open_read(location: str | Path) -> Iterator[BinaryIO]:
    """Open for reading bytes."""
    fs, path = open_fs(location)
    with fs.open_input_file(path) as stream:
        yield stream


@contextmanager
def open_atomic(location: str | Path) -> Iterator[BinaryIO]:
    """Open for writing bytes; the file appears under its name only when the block ends well.

    Locally by writing beside it and renaming. An object store shows an object only once it is complete,
    so there it is written in place.
    """
    fs, path = open_fs(location)
    fs.create_dir(os.path.dirname(path), recursive=True)
    if not isinstance(fs, pafs.LocalFileSystem):
        with fs.open_output_stream(path) as stream:
            yield stream
        return
    staging = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{uuid.uuid4().hex[:8]}")
    try:
        with open(staging, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(staging, path)
    finally:
        if os.path.exists(staging):
            os.unlink(staging)


def write_bytes(location: str | Path, data: bytes) -> None:
    """Write a whole file atomically."""
    with open_atomic(location) as stream:
        stream.write(data)


def write_json(location: str | Path, value: Any) -> None:
    """Write JSON, readable, atomically."""
    write_bytes(location, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(location: str | Path) -> Any:
    """Read a JSON file."""
    with open_read(location) as stream:
        return json.loads(stream.read())


def write_parquet(location: str | Path, table: pa.Table) -> None:
    """Write a Parquet file atomically."""
    with open_atomic(location) as stream:
        pq.write_table(table, stream)


def read_parquet(location: str | Path, columns: list[str] | None = None) -> pa.Table:
    """Read one Parquet file."""
    with open_read(location) as stream:
        return pq.read_table(stream, columns=columns)


def digest(location: str | Path) -> dict[str, Any]:
    """`{path, bytes, sha256}` of a file, for a run record."""
    sha, size = hashlib.sha256(), 0
    with open_read(location) as stream:
        while chunk := stream.read(1 << 20):
            sha.update(chunk)
            size += len(chunk)
    return {"path": str(location), "bytes": size, "sha256": sha.hexdigest()}
