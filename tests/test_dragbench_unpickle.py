"""Pickles from strangers: what numpy writes is read as it is, and nothing in a file is ever run."""

import os
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonkit.errors import InputError
from dragonkit.evaluate.dragbench import unpickle
from dragonkit.evaluate.dragbench.unpickle import load_pickle

MASK = np.arange(12, dtype=np.uint8).reshape(3, 4) % 2
CONTENT = {"prompt": "ein Käfer", "points": [[1, 2], (3, 4.5)], "mask": MASK, "none": None, "yes": True}


class Calls:
    """Pickles as a call of any function with any arguments."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.args


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "meta_data.pkl"


def stored(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_what_plain_pickle_reads_is_read(file: Path, protocol: int) -> None:
    read = load_pickle(stored(file, pickle.dumps(CONTENT, protocol)))
    assert {k: v for k, v in read.items() if k != "mask"} == {k: v for k, v in CONTENT.items() if k != "mask"}
    assert read["mask"].dtype == np.uint8 and np.array_equal(read["mask"], MASK)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["b1", "u1", "<i8", ">i4", "f2", "<f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_arrays_of_numbers_are_read_exactly(file: Path, protocol: int, dtype: str, order: str) -> None:
    values = np.random.default_rng(0).integers(0, 2, (6, 5)).astype(dtype)
    array = values[::2, ::-1] if order == "strided" else np.asarray(values, order=order)  # type: ignore[call-overload]
    read = load_pickle(stored(file, pickle.dumps({"mask": array}, protocol)))["mask"]
    assert read.dtype == array.dtype and np.array_equal(read, array)


@pytest.mark.parametrize("protocol", range(6))
def test_scalars_of_numpy_become_numbers(file: Path, protocol: int) -> None:
    content = {"points": [[np.int64(3), np.float32(0.5)], [np.uint8(255), np.bool_(True)]]}
    read = load_pickle(stored(file, pickle.dumps(content, protocol)))
    assert read == {"points": [[3, 0.5], [255, True]]}
    assert all(type(v) in (int, float, bool) for point in read["points"] for v in point)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3])
def test_the_old_and_the_new_names_of_numpys_modules_are_the_same(file: Path, protocol: int) -> None:
    data = pickle.dumps({"mask": MASK, "points": [[np.int64(3), 4]]}, protocol)
    assert b"numpy._core.multiarray" in data
    older = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    read = load_pickle(stored(file, older))
    assert np.array_equal(read["mask"], MASK) and read["points"] == [[3, 4]]


def test_the_same_array_twice_is_read_twice(file: Path) -> None:
    read = load_pickle(stored(file, pickle.dumps({"a": MASK, "b": MASK})))
    assert np.array_equal(read["a"], MASK) and np.array_equal(read["b"], MASK)


def make(sentinel: Path) -> dict[str, Any]:
    """Live gadgets: unpickled as usual, each makes the sentinel."""
    code = f"open({str(sentinel)!r}, 'w').close()"
    return {
        "os.system": Calls(os.system, f"touch {sentinel}"),
        "eval": Calls(eval, code),
        "exec": Calls(exec, code),
        "open": Calls(open, str(sentinel), "w"),
        "numpy.save": Calls(np.save, str(sentinel), 0),
        "numpy.memmap": Calls(np.memmap, str(sentinel), "u1", "w+", 0, (1,)),
        "hidden in the points": [[1, 2], [3, Calls(os.system, f"touch {sentinel}")]],
        "numpy's own pickle": {"mask": MASK, "more": np.array([Calls(os.system, f"touch {sentinel}")], dtype=object)},
    }


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", list(make(Path())))
def test_nothing_in_a_pickle_is_run(tmp_path: Path, file: Path, name: str, protocol: int) -> None:
    sentinel = tmp_path / "sentinel"
    data = pickle.dumps({"prompt": "a cat", "points": make(sentinel)[name], "mask": MASK}, protocol)
    pickle.loads(data)
    made = list(tmp_path.glob("sentinel*"))
    assert made, "the gadget is live"
    for path in made:
        path.unlink()
    with pytest.raises(InputError) as error:
        load_pickle(stored(file, data))
    assert not list(tmp_path.glob("sentinel*"))
    assert str(file) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("__builtin__", "eval"),
        ("numpy", "load"),
        ("numpy", "ndarray.tofile"),
        ("numpy", "dtype.__class__"),
        ("numpy.core.multiarray", "fromfile"),
        ("numpy._core.multiarray", "_reconstruct.__globals__"),
        ("numpy.testing._private.utils", "runstring"),
        ("_codecs", "decode"),
        ("copyreg", "_reconstructor"),
    ],
)
@pytest.mark.parametrize("style", ["text", "stack"])
def test_a_refusal_names_the_file_and_what_it_asks_for(file: Path, module: str, name: str, style: str) -> None:
    if style == "text":
        data = f"c{module}\n{name}\n(I1\ntR.".encode()
    else:
        data = b"\x80\x04" + b"".join(b"\x8c" + bytes([len(s)]) + s.encode() for s in (module, name)) + b"\x93)R."
    with pytest.raises(InputError) as error:
        load_pickle(stored(file, data))
    assert str(file) in str(error.value) and f"{module}.{name}" in str(error.value)


@pytest.mark.parametrize(
    ("array", "what"),
    [
        (np.array([1, "a", None], dtype=object), "'O8'"),
        (np.array([b"ab"]), "'S2'"),
        (np.array(["ab"]), "'U2'"),
        (np.zeros(2, dtype=[("a", "u1"), ("b", "f8")]), "'V9'"),
        (np.zeros(2, dtype=[("a", "O")]), "'V8'"),
        (np.array(["2020-01-01"], dtype="M8[D]"), "'M8'"),
        (np.array([1j]), "'c16'"),
        (np.ma.masked_array([1, 2], mask=[0, 1]), "numpy.ma"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_of_anything_but_numbers_are_refused(file: Path, array: Any, what: str, protocol: int) -> None:
    with pytest.raises(InputError) as error:
        load_pickle(stored(file, pickle.dumps({"mask": array}, protocol)))
    assert str(file) in str(error.value) and what in str(error.value)


@pytest.mark.parametrize(
    "call",
    [
        Calls(np.ndarray, (10**6,), "u1"),
        Calls(np.dtype, "O"),
        Calls(np._core.multiarray._reconstruct, np.matrix, (0,), b"b"),
        Calls(np._core.multiarray.scalar, np.dtype("u1"), b"12"),
        Calls(np._core.numeric._frombuffer, bytearray(b"1234"), np.dtype("u1"), (5,), "C"),
        Calls(np._core.numeric._frombuffer, bytearray(b"1234"), np.dtype("u1"), (-1,), "C"),
    ],
    ids=["ndarray", "dtype", "subclass", "scalar", "too long", "negative"],
)
def test_numpys_own_functions_are_not_called_with_what_a_file_says(file: Path, call: Calls) -> None:
    with pytest.raises(InputError, match="meta_data.pkl"):
        load_pickle(stored(file, pickle.dumps({"mask": call}, 5)))


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_cut_short_is_refused_wherever_it_was_cut(file: Path, protocol: int) -> None:
    whole = pickle.dumps(CONTENT, protocol)
    for length in range(len(whole)):
        with pytest.raises(InputError, match="meta_data.pkl"):
            load_pickle(stored(file, whole[:length]))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("garbage") / "meta_data.pkl"


def only_plain(data: Any) -> bool:
    stand_ins = (unpickle._Array, unpickle._Dtype)
    plain = (dict, list, tuple, set, frozenset, str, bytes, bytearray, int, float, type(None), np.ndarray)
    return isinstance(data, plain + stand_ins) or data in unpickle.ADMITTED.values()


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_harmless(scratch: Path, data: bytes) -> None:
    try:
        assert only_plain(load_pickle(stored(scratch, data)))
    except InputError as error:
        assert "meta_data.pkl" in str(error)


@given(st.integers(0, 5), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_pickle_is_refused_or_harmless(scratch: Path, protocol: int, changes: list[tuple[int, int]]) -> None:
    data = bytearray(pickle.dumps(CONTENT, protocol))
    for place, value in changes:
        data[place % len(data)] = value
    try:
        assert only_plain(load_pickle(stored(scratch, bytes(data))))
    except InputError as error:
        assert "meta_data.pkl" in str(error)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04Nr" + struct.pack("<I", 2**31) + b".",  # remember None as object 2 147 483 648
        b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",  # a bytearray of a tebibyte
        b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b".",  # bytes of a tebibyte
        b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"N.",  # a frame of a tebibyte
    ],
    ids=["memo", "bytearray", "bytes", "frame"],
)
def test_a_small_file_cannot_ask_for_much_memory(file: Path, data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="meta_data.pkl"):
            load_pickle(stored(file, data))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_large_file_is_not_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.dumps({"mask": np.zeros(2000, np.uint8)})
    monkeypatch.setattr(unpickle, "LARGEST", len(data))
    assert load_pickle(stored(file, data))["mask"].shape == (2000,)
    monkeypatch.setattr(unpickle, "LARGEST", len(data) - 1)
    with pytest.raises(InputError, match="larger than"):
        load_pickle(file)


def test_a_missing_file_is_named(file: Path) -> None:
    with pytest.raises(InputError, match="meta_data.pkl cannot be read"):
        load_pickle(file)
