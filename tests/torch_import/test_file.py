"""Reading PyTorch files: what they hold comes out, and hostile ones are refused without harm."""

import argparse
import os
import pickle
import struct
import time
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.errors import UserError
from oclr_jax.torch_import.file import read_torch_file
from tests.torch_import import torch_writer as w

VALUES = np.arange(24, dtype=np.float32)


def one_tensor(offset=0, shape=(2, 3), strides=(3, 1), length=24, kind="FloatStorage") -> bytes:
    return w.dict_of({"a": w.tensor(w.storage("0", length, kind), offset, shape, strides)})


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_torch_file(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


# --- what files hold


@pytest.mark.parametrize("save", [w.save_state_zip, w.save_state_legacy])
def test_both_formats_hold_the_arrays(tmp_path, save):
    state = {"x.weight": VALUES.reshape(2, 3, 4), "x.bias": VALUES[:5], "empty": VALUES[:0]}
    read = read_torch_file(save(tmp_path / "a.pth", state))
    assert list(read) == list(state)
    for name, array in state.items():
        np.testing.assert_array_equal(read[name].array(), array)
        assert read[name].array().dtype == np.float32


def test_views_share_a_storage_by_offset_and_strides(tmp_path):
    shared = w.storage("0", 24)
    body = w.dict_of(
        {
            "transposed": w.tensor(shared, 0, (4, 6), (1, 4)),
            "part": w.tensor(shared, 20, (2, 2), (2, 1)),
            "scalar": w.tensor(shared, 23, (), ()),
        }
    )
    read = read_torch_file(w.write_zip(tmp_path / "a.pth", body, {"0": VALUES.tobytes()}))
    np.testing.assert_array_equal(read["transposed"].array(), VALUES.reshape(6, 4).T)
    np.testing.assert_array_equal(read["part"].array(), [[20, 21], [22, 23]])
    assert read["scalar"].array() == 23


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64, np.bool_, jnp.bfloat16])
def test_types(tmp_path, dtype):
    array = VALUES.astype(dtype)
    read = read_torch_file(w.save_state_zip(tmp_path / "a.pth", {"a": array}))["a"].array()
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


def test_metadata_of_a_state_dict_and_nested_values_are_read_past(tmp_path):
    state = one_tensor() + b"}(" + w.text("_metadata") + w.ORDERED_DICT + b"ub"
    body = b"}(" + w.text("state") + state + w.text("lr") + b"G" + struct.pack(">d", 0.5)
    body += w.text("groups") + b"](" + w.number(3) + b"N\x88e" + b"u"
    read = read_torch_file(w.write_zip(tmp_path / "a.pth", body, {"0": VALUES.tobytes()}))
    assert read["lr"] == 0.5
    assert read["groups"] == [3, None, True]
    np.testing.assert_array_equal(read["state"]["a"].array(), [[0, 1, 2], [3, 4, 5]])


def test_the_older_format_of_a_published_file(shared_dir):
    golden = shared_dir / "reference" / "golden"
    read = read_torch_file(golden / "raft_small_dataparallel_legacy.pth")
    with np.load(golden / "raft_small.npz") as file:
        weights = {name[2:]: file[name] for name in file.files if name.startswith("w/")}
    assert {f"module.{name}" for name in weights} == set(read)
    for name, array in weights.items():
        np.testing.assert_array_equal(read[f"module.{name}"].array(), array)


# --- pickles that would run something


class Command:
    """Unpickled, runs a command."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("container", ["zip", "legacy", "bare"])
def test_a_pickle_that_would_run_a_command_is_refused_by_name(tmp_path, container, protocol):
    trace, path = tmp_path / "trace", tmp_path / "a.pth"
    evil = pickle.dumps(Command(f"touch '{trace}'"), protocol)
    body = evil.removeprefix(b"\x80" + bytes([protocol])).removesuffix(b".")
    if container == "zip":
        w.write_zip(path, body, {})
    else:
        path.write_bytes(evil if container == "bare" else w.legacy_bytes(body, {}))
    message = refusal(path)
    assert not trace.exists()
    if protocol:  # 0 has an opcode of its own for numbers and text, which is named first or last
        assert "system" in message


@pytest.mark.parametrize("protocol", [2, 4])
def test_the_options_of_a_training_program_become_an_empty_dict(tmp_path, protocol):
    options = argparse.Namespace(arch="vit_small", lr=1e-4, sizes=[1, (2, 3)], ema=None, fp16=True)
    path = tmp_path / "a.pth"
    evil = argparse.Namespace(run=Command(f"touch '{tmp_path / 'trace'}'"))
    for value in (options, evil):
        body = pickle.dumps({"epoch": 3, "args": value, "step": 7}, protocol)
        body = body.removeprefix(b"\x80" + bytes([protocol])).removesuffix(b".")
        w.write_zip(path, body, {})
        if value is options:
            assert read_torch_file(path) == {"epoch": 3, "args": {}, "step": 7}
    assert "system" in refusal(path)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("module", "attribute"),
    [("builtins", "eval"), ("torch", "load"), ("torch._utils", "__import__"), ("collections", "x")],
)
def test_names_that_are_not_on_the_list_are_refused_by_name(tmp_path, module, attribute):
    body = w.name(module, attribute) + w.tuple_of(w.text("1")) + b"R"
    assert f"{module}.{attribute}" in refusal(w.write_zip(tmp_path / "a.pth", body, {}))


@pytest.mark.parametrize(
    ("body", "opcode"),
    [
        (b"(ios\nsystem\n", "INST"),
        (b"(" + w.name("collections", "OrderedDict") + b"o", "OBJ"),
        (b"\x82\x01", "EXT1"),
        (b"\x8f", "EMPTY_SET"),
        (b"Pfoo\n", "PERSID"),
    ],
)
def test_opcodes_that_are_not_on_the_list_are_refused_by_name(tmp_path, body, opcode):
    assert f" {opcode}," in refusal(w.write_zip(tmp_path / "a.pth", body, {}))


@pytest.mark.parametrize(
    "body",
    [
        # Attributes of a function, of a class, of a tensor.
        w.name("torch._utils", "_rebuild_tensor_v2") + b"}(" + w.text("x") + b"Nub",
        w.name("torch", "FloatStorage") + b"}b",
        # Calls of what is no function, with what are no arguments.
        w.text("abc") + b")R",
        w.name("torch", "FloatStorage") + b")R",
        w.name("collections", "OrderedDict") + b"NR",
        w.name("collections", "OrderedDict") + w.tuple_of(w.tuple_of(b"(N\x88t")) + b"R",
        w.name("torch._utils", "_rebuild_tensor_v2") + b")R",
        w.name("torch._utils", "_rebuild_parameter") + w.tuple_of(b"N", b"\x88", b"N") + b"R",
        # Broken use of the stack.
        b"t",
        b"0",
        b"h\x05",
        b"(N",
        b"NN",
        b"]NNu",
        b"}(Nu",
        b"Na",
        b"N(Ne",
        b"}" + w.tuple_of(b"N") + b"Ns",
        # Objects of other classes, and of this one with arguments or by a call.
        w.name("collections", "OrderedDict") + b")\x81",
        w.name("argparse", "Namespace") + w.tuple_of(w.text("x")) + b"\x81",
        w.name("argparse", "Namespace") + b")R",
        w.text("not a storage") + b"Q",
        w.tuple_of(w.text("module"), b"N", b"N", b"N", b"N") + b"Q",
    ],
)
def test_pickles_that_make_no_sense_are_refused(tmp_path, body):
    refusal(w.write_zip(tmp_path / "a.pth", body, {}))
    (tmp_path / "b.pth").write_bytes(w.legacy_bytes(body, {}))
    refusal(tmp_path / "b.pth")


def test_nothing_takes_long_or_large(tmp_path):
    # A dict key whose hash takes 2^60 steps; a memo slot that a list could not hold; a text that
    # promises more than there is.
    doubled = b")" + b"q\x00h\x00\x86" * 60
    start = time.process_time()
    refusal(w.write_zip(tmp_path / "hash.pth", b"}" + doubled + b"Ns", {}))
    refusal(w.write_zip(tmp_path / "text.pth", b"X\xff\xff\xff\xffabc", {}))
    refusal(w.write_zip(tmp_path / "bytes.pth", b"\x96" + b"\xff" * 7 + b"\x00", {}))
    read_torch_file(w.write_zip(tmp_path / "memo.pth", b"Nr\xff\xff\xff\xff", {}))
    refusal(w.write_zip(tmp_path / "deep.pth", b"(" * 100_000 + b"t" * 99_999, {}))
    assert time.process_time() - start < 5


# --- tensors and storages that contradict the file


@pytest.mark.parametrize(
    "wrong",
    [
        {"offset": 19},
        {"offset": -1},
        {"shape": (5, 5), "strides": (5, 1)},
        {"strides": (21, 2)},
        {"strides": (-3, 1)},
        {"shape": (-2, 3)},
        {"shape": (2, 3), "strides": (1,)},
        {"shape": (2**40, 2**40), "strides": (0, 0)},
        {"shape": (25,), "strides": (0,)},
        {"shape": (2**62, 4), "strides": (2**62, 1)},
        {"shape": (1,) * 40, "strides": (1,) * 40},
        {"length": 25},
        {"length": 23},
        {"length": -1},
        {"length": 2**62},
        {"kind": "HalfStorage"},
        {"kind": "ComplexFloatStorage"},
        {"kind": "UntypedStorage"},
    ],
)
def test_tensors_that_leave_their_storage_are_refused(tmp_path, wrong):
    data = {"0": VALUES.tobytes()}
    body = one_tensor(**wrong)
    refusal(w.write_zip(tmp_path / "a.pth", body, data))
    (tmp_path / "b.pth").write_bytes(w.legacy_bytes(body, data))
    refusal(tmp_path / "b.pth")


def test_storages_that_are_missing_or_told_twice_are_refused(tmp_path):
    refusal(w.write_zip(tmp_path / "a.pth", one_tensor(), {"1": VALUES.tobytes()}))
    (tmp_path / "b.pth").write_bytes(w.legacy_bytes(one_tensor(), {}))
    refusal(tmp_path / "b.pth")
    parts = [w.storage("0", 24), w.storage("0", 12, "DoubleStorage")]
    body = w.dict_of({str(i): w.tensor(s, 0, (2,), (1,)) for i, s in enumerate(parts)})
    assert "two ways" in refusal(w.write_zip(tmp_path / "c.pth", body, {"0": VALUES.tobytes()}))


# --- containers


@pytest.mark.parametrize("save", [w.save_state_zip, w.save_state_legacy])
def test_a_file_cut_short_anywhere_is_refused(tmp_path, save):
    data = save(tmp_path / "a.pth", {"a": VALUES, "b": VALUES[:7]}).read_bytes()
    cut = tmp_path / "cut.pth"
    for length in range(0, len(data), 7):
        cut.write_bytes(data[:length])
        refusal(cut)


@pytest.mark.parametrize("save", [w.save_state_zip, w.save_state_legacy])
def test_damaged_bytes_are_read_or_refused_and_nothing_else(tmp_path, save):
    data = save(tmp_path / "a.pth", {"a": VALUES, "b": VALUES[:7]}).read_bytes()
    rng = np.random.default_rng(0)
    damaged, refused = tmp_path / "damaged.pth", 0
    for _ in range(400):
        wrong = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            wrong[place] = rng.integers(0, 256)
        damaged.write_bytes(wrong)
        try:
            for tensor in read_torch_file(damaged).values():
                tensor.array().sum()
        except UserError:
            refused += 1
        except AttributeError:
            pass  # read, but what was a state dict is now something else
    assert refused > 100


def test_zip_bombs_are_refused_before_they_unpack(tmp_path):
    zeros = bytes(50_000_000)
    body = one_tensor(length=len(zeros) // 4)
    path = w.write_zip(tmp_path / "a.pth", body, {"0": zeros}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    assert "compressed" in refusal(path)

    # A directory that promises terabytes, and one whose entries are all the same bytes.
    path = w.write_zip(tmp_path / "b.pth", one_tensor(), {"0": VALUES.tobytes()})
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    sizes = struct.pack("<II", 2**32 - 2, 2**32 - 2)
    path.write_bytes(data[: start + 20] + sizes + data[start + 28 :])
    assert "more bytes" in refusal(path)
    with pytest.warns(UserWarning), zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", w.pickled(b"N"))
        archive.writestr("archive/data.pkl", w.pickled(b"N"))
    assert "repeated" in refusal(path)


def test_a_pickle_larger_than_any_description_is_refused(tmp_path):
    path = w.write_zip(tmp_path / "a.pth", b"N" + b"0N" * (9 * 2**20), {})
    assert "larger" in refusal(path)


def test_big_endian_numbers_are_refused(tmp_path):
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", w.pickled(b"N"))
        archive.writestr("archive/byteorder", b"big")
    assert "little-endian" in refusal(path)
    data = w.legacy_bytes(b"N", {}).replace(b"little_endian\x88", b"little_endian\x89")
    path.write_bytes(data)
    assert "little-endian" in refusal(path)


def test_what_is_no_pytorch_file_is_refused(tmp_path):
    for content in (
        b"",
        b"P",
        b"hello, world\n" * 9,
        b"\x89PNG\r\n\x1a\n" + bytes(64),
        b"\x80\x02N.",
    ):
        path = tmp_path / "some file"
        path.write_bytes(content)
        refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("letter.txt", "hello")
    assert "data.pkl" in refusal(path)
    refusal(tmp_path / "nothing here")
    refusal(tmp_path)
