"""Reads the fields of HDF5 files. Everything in the package that reads a result goes through here, so that an error always names
the file and the field."""
from __future__ import annotations

from typing import Any, Dict, Iterator, List

import h5py
import numpy as np

from loci.errors import LociError

__all__ = ["Fields", "open_file", "plain"]


def open_file(path: str) -> h5py.File:
    """An HDF5 file, for reading. LociError: it does not exist, or is not an HDF5 file."""
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise LociError(f"{path}: cannot be read: {error}") from error


def plain(value: Any) -> Any:
    """A value of h5py as Python's own type: text as str, numbers as int or float, arrays of them as lists."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value.tolist()]
    if isinstance(value, np.generic):
        return plain(value.item())
    return value


class Fields:
    """A group or data set of a file. Nothing is read before it is asked for."""

    def __init__(self, path: str, node: Any):
        self.path, self.node = path, node

    def error(self, name: str, what: str) -> LociError:
        place = f"{self.node.name.rstrip('/')}/{name.lstrip('/')}" if name else self.node.name
        return LociError(f"{self.path}: field {place} {what}")

    def has(self, name: str) -> bool:
        """Whether there is such a group or data set."""
        return name in self.node

    def names(self) -> List[str]:
        """The groups and data sets of this group, sorted."""
        return sorted(self.node)

    def at(self, name: str) -> "Fields":
        """The group or data set of this name. LociError: there is none."""
        try:
            return Fields(self.path, self.node[name])
        except (KeyError, OSError, RuntimeError) as error:
            raise self.error(name, "is missing") from error

    def array(self, name: str, rows: Any = ()) -> np.ndarray:
        """The numbers of a data set, or of some of its rows. LociError: missing, damaged, or text."""
        dataset = self._dataset(name)
        try:
            values = dataset[rows]
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            raise self.error(name, f"cannot be read: {error}") from error
        if not np.issubdtype(np.asarray(values).dtype, np.number):
            raise self.error(name, "does not hold numbers")
        return np.asarray(values)

    def texts(self, name: str) -> List[str]:
        """The texts of a data set. LociError: missing, damaged, or not text."""
        dataset = self._dataset(name)
        if h5py.check_string_dtype(dataset.dtype) is None:
            raise self.error(name, "does not hold text")
        try:
            return list(dataset.asstr(errors="replace")[()])
        except (OSError, RuntimeError, ValueError) as error:
            raise self.error(name, f"cannot be read: {error}") from error

    def column(self, name: str) -> Any:
        """The texts or the numbers of a data set."""
        return self.texts(name) if h5py.check_string_dtype(self._dataset(name).dtype) is not None else self.array(name)

    def columns(self, name: str) -> Dict[str, Any]:
        """A group of data sets as a table: {column: values}."""
        table = self.at(name)
        return {column: table.column(column) for column in table.names()}

    def attribute(self, name: str) -> Any:
        """An attribute as Python's own type. LociError: there is none."""
        try:
            return plain(self.node.attrs[name])
        except KeyError as error:
            raise self.error("", f"has no attribute {name}") from error

    def optional(self, name: str, otherwise: Any = None) -> Any:
        """An attribute, or `otherwise` where the file has none."""
        return self.attribute(name) if name in self.node.attrs else otherwise

    def attributes(self) -> Iterator[str]:
        """The names of the attributes."""
        return iter(self.node.attrs)

    def _dataset(self, name: str) -> h5py.Dataset:
        dataset = self.at(name).node if name else self.node
        if not isinstance(dataset, h5py.Dataset):
            raise self.error(name, "is a group where a data set is expected")
        return dataset
