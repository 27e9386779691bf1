"""Verifies the checksums that every result holds (docs/file_formats.md, "Checksums")."""
from __future__ import annotations

import hashlib
from typing import Any, Iterable, Tuple

import h5py
import numpy as np

from loci.errors import LociError
from loci.fields import Fields

__all__ = ["verify"]

FLOATING, INTEGER, STRING, OTHER = range(4)
PIECE = 1 << 22  # elements that are in memory at a time


def verify(root: Fields) -> int:
    """Compares every object with its stored SHA-256 and returns how many there are; 0 where the file holds no checksums.
    LociError names the first object that differs. Everything is read once, a few MiB at a time."""
    if not root.has("checksums") and root.optional("checksum") is None:
        return 0
    paths, digests = root.texts("checksums/path"), root.array("checksums/sha256")
    total = hashlib.sha256()
    add_texts(total, paths)
    add_numbers(total, digests.size, [digests])
    if total.hexdigest() != root.attribute("checksum"):
        raise LociError(f"{root.path}: the file is damaged: its checksums are damaged")
    for path, digest in zip(paths, digests):
        if digest_of(root, path) != digest.tobytes():
            raise LociError(f"{root.path}: the file is damaged: {path} does not hold what was written (its checksum differs)")
    return len(paths)


def add_texts(total: Any, texts: Iterable[str]) -> None:
    encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
    total.update(b"%d:" % len(encoded))
    for text in encoded:
        total.update(b"%d:" % len(text) + text)


def add_numbers(total: Any, count: int, pieces: Iterable[np.ndarray]) -> None:
    total.update(b"%d:" % count)
    for piece in pieces:
        total.update(np.ascontiguousarray(piece).tobytes())


def kind_of(dtype: Any) -> int:
    if h5py.check_string_dtype(dtype) is not None:
        return STRING
    return {"f": FLOATING, "i": INTEGER, "u": INTEGER}.get(dtype.kind, OTHER)


def digest_of(root: Fields, path: str) -> bytes:
    node = root.node if path == "/" else root.at(path).node
    total = hashlib.sha256()
    for name in sorted(node.attrs):
        if path != "/" or name != "checksum":
            add_attribute(total, node, name)
    total.update(b"values:")
    if isinstance(node, h5py.Dataset):
        add_dataset(total, root, node)
    return total.digest()


def add_attribute(total: Any, node: Any, name: str) -> None:
    """References are places in the file: only the attribute's name counts."""
    kind = kind_of(node.attrs.get_id(name).dtype)
    values = np.ravel(node.attrs[name]) if kind != OTHER else np.empty(0)
    text = name.encode()
    total.update(b"%d:%s%d:" % (len(text), text, kind))
    add_texts(total, [v.decode("utf-8", "surrogateescape") if isinstance(v, bytes) else str(v) for v in values] if kind == STRING else [])
    for number, dtype in ((INTEGER, np.int64), (FLOATING, np.float64)):
        numbers = values.astype(dtype) if kind == number else np.empty(0, dtype)
        add_numbers(total, numbers.size, [numbers])


def add_dataset(total: Any, root: Fields, dataset: h5py.Dataset) -> None:
    kind = kind_of(dataset.dtype)
    total.update(b"%d:%d:" % (kind, dataset.id.get_type().get_size()))
    shape = np.array(dataset.shape, np.int64)
    add_numbers(total, shape.size, [shape])
    if kind == STRING:
        add_texts(total, np.ravel(dataset.asstr(errors="surrogateescape")[()]))
    elif kind != OTHER:
        add_numbers(total, dataset.size, pieces_of(root, dataset))


def pieces_of(root: Fields, dataset: h5py.Dataset) -> Iterable[np.ndarray]:
    for rows in slices_of(dataset.shape):
        yield root.array(dataset.name, rows)


def slices_of(shape: Tuple[int, ...]) -> Iterable[Any]:
    if not shape:
        return [()]
    step = max(1, PIECE // max(1, int(np.prod(shape[1:]))))
    return [slice(first, first + step) for first in range(0, shape[0], step)]
