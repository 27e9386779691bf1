"""What the checks need of h5py, for machines that have the HDF5 library but not h5py: reading, by ctypes.

$LOCI_HDF5_LIBRARY names the library; without it the system's is taken. Data sets and attributes of numbers and of texts are
understood; values come back as h5py gives them.
"""
import ctypes
import ctypes.util
import os
import re

import numpy

_id = ctypes.c_int64
_NUMBERS = {("i", 1): "int8", ("i", 2): "int16", ("i", 4): "int32", ("i", 8): "int64", ("u", 1): "uint8", ("u", 2): "uint16",
            ("u", 4): "uint32", ("u", 8): "uint64", ("f", 4): "float32", ("f", 8): "float64"}
_INTEGER, _FLOAT, _STRING = 0, 1, 3  # H5T_class_t
_GROUP, _DATASET = 2, 5  # H5I_type_t
_RESULTS = {"H5Tget_size": ctypes.c_size_t} | dict.fromkeys(
    "H5Fopen H5Oopen H5Dget_space H5Dget_type H5Aopen H5Aget_space H5Aget_type".split(), _id)


def _open_library(path):
    """A library with those beside it that it needs and the system does not have."""
    while True:
        try:
            return ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            missing = re.match(r"(lib[^:/ ]+\.so[^:/ ]*): cannot open shared object file", str(error))
            beside = missing and os.path.join(os.path.dirname(path), missing[1])
            if not beside or not os.path.exists(beside):
                raise
            _open_library(beside)


def _load():
    path = os.environ.get("LOCI_HDF5_LIBRARY") or ctypes.util.find_library("hdf5_serial") or ctypes.util.find_library("hdf5")
    if not path:
        raise ImportError("there is neither h5py nor an HDF5 library")
    library = _open_library(path)
    for name, kind in _RESULTS.items():
        getattr(library, name).restype = kind
    library.H5open()
    library.H5Eset_auto2(_id(0), None, None)
    return library


_hdf5 = _load()
_ITERATION = ctypes.CFUNCTYPE(ctypes.c_int, _id, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p)


def _checked(result, what):
    if result < 0:
        raise KeyError(what)
    return result


def _shape(space):
    rank = _hdf5.H5Sget_simple_extent_ndims(_id(space))
    extents = (ctypes.c_uint64 * max(rank, 1))()
    _hdf5.H5Sget_simple_extent_dims(_id(space), extents, None)
    return tuple(extents[:rank])


def _value(type_id, space, read, scalar_text):
    """The array, or scalar, of a type and space that read(type, buffer) fills; texts by scalar_text where they stand alone."""
    shape, size = _shape(space), _hdf5.H5Tget_size(_id(type_id))
    kind = _hdf5.H5Tget_class(_id(type_id))
    count = int(numpy.prod(shape, dtype=numpy.int64))
    if kind == _STRING:
        if not _hdf5.H5Tis_variable_str(_id(type_id)):
            array = numpy.zeros(shape, f"S{size}")
            _checked(read(type_id, array.ctypes.data_as(ctypes.c_void_p)), "texts")
            return array if shape else array[()]
        pointers = (ctypes.c_char_p * count)()
        _checked(read(type_id, pointers), "texts")
        texts = [pointer or b"" for pointer in pointers]
        if not shape:
            return scalar_text(texts[0])
        return numpy.array(texts + [None], dtype=object)[:-1].reshape(shape)
    if kind not in (_INTEGER, _FLOAT):
        raise TypeError(f"values of HDF5's class {kind} are not read")
    letter = "f" if kind == _FLOAT else "u" if _hdf5.H5Tget_sign(_id(type_id)) == 0 else "i"
    array = numpy.empty(shape, _NUMBERS[letter, size])
    if count:
        _checked(read(type_id, array.ctypes.data_as(ctypes.c_void_p)), "numbers")
    return array if shape else array[()]


class Attributes:
    def __init__(self, owner):
        self._owner = owner

    def keys(self):
        names = []

        @_ITERATION
        def visit(_, name, __, ___):
            names.append(name.decode())
            return 0
        _checked(_hdf5.H5Aiterate2(_id(self._owner), 0, 0, None, visit, None), "attributes")
        return names

    def __iter__(self):
        return iter(self.keys())

    def __contains__(self, name):
        return _hdf5.H5Aexists(_id(self._owner), name.encode()) > 0

    def __getitem__(self, name):
        attribute = _checked(_hdf5.H5Aopen(_id(self._owner), name.encode(), _id(0)), name)
        made = _value(_hdf5.H5Aget_type(_id(attribute)), _hdf5.H5Aget_space(_id(attribute)),
                      lambda kind, buffer: _hdf5.H5Aread(_id(attribute), _id(kind), buffer), lambda text: text.decode())
        _hdf5.H5Aclose(_id(attribute))
        if isinstance(made, numpy.ndarray) and made.dtype == object:
            made = numpy.array([text.decode() for text in made.ravel()] + [None], dtype=object)[:-1].reshape(made.shape)
        return made

    def get(self, name, default=None):
        return self[name] if name in self else default

    def items(self):
        return [(name, self[name]) for name in self]


class Dataset:
    def __init__(self, handle):
        self._id = handle
        self.attrs = Attributes(handle)
        self.shape = _shape(_hdf5.H5Dget_space(_id(handle)))

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, place):
        whole = _value(_hdf5.H5Dget_type(_id(self._id)), _hdf5.H5Dget_space(_id(self._id)),
                       lambda kind, buffer: _hdf5.H5Dread(_id(self._id), _id(kind), _id(0), _id(0), _id(0), buffer), bytes)
        return whole if isinstance(place, tuple) and not place else whole[place]


class Group:
    def __init__(self, handle):
        self._id = handle
        self.attrs = Attributes(handle)

    def __getitem__(self, path):
        handle = _checked(_hdf5.H5Oopen(_id(self._id), path.encode(), _id(0)), path)
        return {_GROUP: Group, _DATASET: Dataset}[_hdf5.H5Iget_type(_id(handle))](handle)

    def __contains__(self, path):
        parts = path.strip("/").split("/")
        return all(_hdf5.H5Lexists(_id(self._id), "/".join(parts[:n + 1]).encode(), _id(0)) > 0 for n in range(len(parts)))

    def keys(self):
        names = []

        @_ITERATION
        def visit(_, name, __, ___):
            names.append(name.decode())
            return 0
        iterate = getattr(_hdf5, "H5Literate", None) or _hdf5.H5Literate1  # the name since HDF5 1.12
        _checked(iterate(_id(self._id), 0, 0, None, visit, None), "members")
        return names

    def __iter__(self):
        return iter(self.keys())

    def __len__(self):
        return len(self.keys())

    def values(self):
        return [self[name] for name in self]

    def items(self):
        return [(name, self[name]) for name in self]

    def visititems(self, visit, prefix=""):
        for name, item in self.items():
            found = visit(prefix + name, item)
            if found is None and isinstance(item, Group):
                found = item.visititems(visit, f"{prefix}{name}/")
            if found is not None:
                return found
        return None


class File(Group):
    def __init__(self, path, mode="r"):
        if mode != "r":
            raise ValueError("files are only read")
        handle = _hdf5.H5Fopen(os.fsencode(path), 0, _id(0))
        if handle < 0:
            raise OSError(f"{path} cannot be opened as HDF5")
        super().__init__(handle)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        _hdf5.H5Fclose(_id(self._id))
