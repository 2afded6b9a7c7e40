"""Compiled programs are read right; with the TPU compiler installed, whole programs are counted."""

import argparse
import importlib.util
import json
import math

import jax
import pytest

from launch.speed import aot
from launch.speed.hlo import Program, array_bytes
from launch.speed.measure import model_config
from oclr_jax.errors import UserError
from oclr_jax.models.oclr import parameter_shapes

# A loop of five rounds around a product, an exchange, and copies to on-chip memory (`S(1)`).
TEXT = """HloModule jit_step, is_scheduled=true

FileNames
1 "/code/model.py"
2 "/code/step.py"

FunctionNames
1 "f"

FileLocations
1 {file_name_id=1 function_name_id=1 line=31 end_line=31 column=19 end_column=19}
2 {file_name_id=2 function_name_id=1 line=7 end_line=7 column=1 end_column=9}

StackFrames
1 {file_location_id=2 parent_frame_id=1}
2 {file_location_id=1 parent_frame_id=1}

%body.1 (p.1: (s32[], f32[8,100])) -> (s32[], f32[8,100]) {
  %p.1 = (s32[]{:T(128)}, f32[8,100]{1,0:T(8,128)}) parameter(0)
  %x.1 = f32[8,100]{1,0:T(8,128)} get-tuple-element(%p.1), index=1
  %y.1 = f32[8,100]{1,0:T(8,128)} multiply(%x.1, %x.1), metadata={op_name="a" stack_frame_id=2}
  ROOT %t.1 = (s32[]{:T(128)}, f32[8,100]{1,0:T(8,128)}) tuple(%x.1, %y.1)
}

%condition.1 (p.2: (s32[], f32[8,100])) -> pred[] {
  %p.2 = (s32[]{:T(128)}, f32[8,100]{1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.2), index=0
  %five = s32[]{:T(128)} constant(5)
  ROOT %less = pred[]{:T(512)} compare(%i.1, %five), direction=LT
}

ENTRY %main.1 (a: f32[8,100]) -> f32[8,100] {
  %a = f32[8,100]{1,0:T(8,128)} parameter(0)
  %start = s32[]{:T(128)S(6)} constant(0)
  %fast = f32[8,100]{1,0:T(8,128)S(1)} copy(%a)
  %both = (s32[]{:T(128)}, f32[8,100]{1,0:T(8,128)}) tuple(%start, %a)
  %loop = (s32[], f32[8,100]{1,0:T(8,128)}) while(%both), body=%body.1, condition=%condition.1
  %z = f32[8,100]{1,0:T(8,128)} get-tuple-element(%loop), index=1
  ROOT %sum = f32[8,100]{1,0:T(8,128)} all-reduce(%z), channel_id=1, metadata={stack_frame_id=1}
}
"""
ARRAY = 8 * 128 * 4


def test_bytes_count_padding_and_main_memory_alone():
    assert array_bytes("bf16[30,100]{1,0:T(8,128)(2,1)}") == 32 * 128 * 2
    # The layout names the fastest dimension first.
    assert array_bytes("f32[100,30]{0,1:T(8,128)}") == 128 * 32 * 4
    assert array_bytes("f32[100,30]{0,1:T(8,128)S(1)}") == 0
    assert array_bytes("f32[100,30]{0,1:T(8,128)S(1)}", padded=False) == 12_000
    assert array_bytes("(pred[7]{0}, u8[3]{0}, s32[])") == 7 + 3 + 4


def test_traffic_follows_loops_and_names_lines():
    moved = {each.name: each for each in Program(TEXT).traffic()}
    assert moved["y.1"].bytes == 5 * 3 * ARRAY
    assert moved["y.1"].source == "/code/model.py:31"
    assert moved["fast"].bytes == ARRAY
    assert moved["sum"].bytes == 2 * ARRAY
    assert "loop" not in moved
    assert "z" not in moved


# A fusion in a loop that reads one row of an array and writes one row of another in place.
SLICES = """HloModule jit_rows, is_scheduled=true

%inner (param_0.1: f32[64,8,128], param_1.1: f32[64,8,128], param_2.1: s32[]) -> f32[64,8,128] {
  %param_1.1 = f32[64,8,128]{2,1,0:T(8,128)} parameter(1)
  %param_0.1 = f32[64,8,128]{2,1,0:T(8,128)} parameter(0)
  %param_2.1 = s32[]{:T(128)} parameter(2)
  %zero.1 = s32[]{:T(128)} constant(0)
  %wide.1 = f32[64,8,128]{2,1,0:T(8,128)} bitcast(%param_0.1)
  %row.1 = f32[1,8,128]{2,1,0:T(8,128)} dynamic-slice(%wide.1, %param_2.1, %zero.1, %zero.1)
  ROOT %set.1 = f32[64,8,128]{2,1,0:T(8,128)} dynamic-update-slice(%param_1.1, %row.1, %param_2.1, %zero.1, %zero.1)
}

ENTRY %main.2 (a: f32[64,8,128], b: f32[64,8,128], i: s32[]) -> f32[64,8,128] {
  %a = f32[64,8,128]{2,1,0:T(8,128)} parameter(0)
  %b = f32[64,8,128]{2,1,0:T(8,128)} parameter(1)
  %i = s32[]{:T(128)S(6)} parameter(2)
  %moved = f32[64,8,128]{2,1,0:T(8,128)} fusion(%a, %b, %i), kind=kLoop, calls=%inner
  ROOT %slice = f32[2,8,128]{2,1,0:T(8,128)} slice(%moved), slice={[0:2], [0:8], [0:128]}
}
"""  # noqa: E501


def test_of_what_an_operation_slices_only_the_slices_count():
    moved = {each.name: each.bytes for each in Program(SLICES).traffic()}
    assert moved == {"moved": 2 * ARRAY, "slice": 2 * 2 * ARRAY}


def test_collectives_are_counted():
    assert Program(TEXT).collectives() == {"all-reduce": (1, 3200)}


# An exchange that begins, goes on beside a product, and ends, in one fusion each; and one without.
OVERLAPPED = """HloModule jit_step, is_scheduled=true

%fused.1 (param_0.1: f32[8,128]) -> (f32[8,128], f32[8,128], s32[2]) {
  %param_0.1 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %begun.1 = f32[8,128]{1,0:T(8,128)} all-reduce(%param_0.1), channel_id=1
  ROOT %call.1 = (f32[8,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)}, s32[2]{0:S(4)}) custom-call(%begun.1)
}

%async_collective_fusion.2 (param_0.2: f32[8,128], param_1.2: f32[8,128]) -> (f32[8,128], f32[8,128]) {
  %param_0.2 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %param_1.2 = f32[8,128]{1,0:T(8,128)} parameter(1)
  %product.2 = f32[8,128]{1,0:T(8,128)} multiply(%param_1.2, %param_1.2)
  %goes_on.2 = f32[8,128]{1,0:T(8,128)} all-reduce(%param_0.2), channel_id=1
  ROOT %both.2 = (f32[8,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)}) tuple(%product.2, %goes_on.2)
}

%fused.3 (param_0.3: f32[8,128], param_1.3: f32[8,128]) -> f32[8,128] {
  %param_0.3 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %param_1.3 = f32[8,128]{1,0:T(8,128)} parameter(1)
  ROOT %ended.3 = f32[8,128]{1,0:T(8,128)} all-reduce(%param_1.3), channel_id=1
}

ENTRY %main.4 (a: f32[8,128], b: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %b = f32[8,128]{1,0:T(8,128)} parameter(1)
  %async-collective-start = (f32[8,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)}, s32[2]{0:S(4)}) fusion(%a), kind=kCustom, output_to_operand_aliasing={{0}: (0, {})}, calls=%fused.1
  %out = f32[8,128]{1,0:T(8,128)} get-tuple-element(%async-collective-start), index=1
  %step = (f32[8,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)}) fusion(%out, %b), kind=kOutput, output_to_operand_aliasing={{1}: (0, {})}, calls=%async_collective_fusion.2
  %on = f32[8,128]{1,0:T(8,128)} get-tuple-element(%step), index=1
  %async-collective-done = f32[8,128]{1,0:T(8,128)} fusion(%a, %on), kind=kCustom, output_to_operand_aliasing={{}: (1, {})}, calls=%fused.3
  ROOT %alone = f32[8,128]{1,0:T(8,128)} all-reduce(%async-collective-done), channel_id=1
}
"""  # noqa: E501


def test_an_exchange_beside_other_work_counts_once():
    program = Program(OVERLAPPED)
    assert program.collectives() == {"all-reduce": (2, 2 * ARRAY)}
    assert program.overlapped() == ARRAY
    moved = {each.name: each.bytes for each in program.traffic()}
    # What is exchanged is read and written; beside it, the product's operand and result.
    expected = dict.fromkeys(("async-collective-start", "step", "alone"), 2 * ARRAY)
    assert moved == expected


def test_growth_is_reported():
    before = {"train": {"temporaries": 2.0, "GB accessed": 10.0, "seconds to compile": 1.0}}
    after = {"train": {"temporaries": 2.5, "GB accessed": 10.1, "seconds to compile": 9.0}}
    assert aot.compare(after, before) == ["train: temporaries 2.000 -> 2.500"]
    assert aot.compare(before, after) == []


def test_the_most_clips_lie_on_the_line_through_two_sizes():
    def row(gigabytes):
        return {"arguments": 0.5, "temporaries": gigabytes * 1e9 / 2**30 - 0.5}

    rows = {"train, v5e:2x2, 1 per chip": row(3.0), "train, v5e:2x2, 3 per chip": row(7.0)}
    *_, line = aot.fitting(rows | {"infer, v5e:2x2, 1 per chip": row(1.0)})
    # 1 GB and 2 GB a clip, in 32, 16, 95 and 32 GB; what a GPU needs is not known.
    assert line == "| train, v5e:2x2 | 15 | 7 | 47 | 15 |  |"
    *_, line = aot.fitting({name.replace("v5e", "h100"): each for name, each in rows.items()})
    assert line == "| train, h100:2x2 |  |  |  |  | 39 |"
    assert aot.fitting({"infer, v5e:2x2, 1 per chip": row(1.0)}) == []


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    aot.add_arguments(parser)
    return parser.parse_args(arguments)


def test_an_unknown_chip_is_refused():
    with pytest.raises(UserError, match="choose one of v4, v5e"):
        aot.main(parse("--topology", "v9:2x2"))


def test_parts_that_do_not_divide_the_clips_are_refused():
    with pytest.raises(UserError, match="8 clips cannot be split into 3 equal parts"):
        aot.main(parse("--batch_size", "8", "--accumulate", "3"))


# The chips of one host: a small one and a whole one.
HOSTS = ("v5e:2x2", "v5e:2x4")


@pytest.mark.aot
def test_programs_compile_for_a_tpu(tmp_path):
    if not importlib.util.find_spec("libtpu"):
        pytest.skip("needs the extra `aot`")
    tiny = ["--frames", "2", "--height", "32", "--width", "48", "--channels", "8", "8", "16"]
    file = tmp_path / "rows.json"
    both = ["--programs", "train", "train_pmap", "--json", str(file)]
    aot.main(parse(*tiny, "--topology", *HOSTS, *both))
    aot.main(parse(*tiny, "--programs", "evaluate", "infer", "--json", str(file)))
    rows = json.loads(file.read_text())["rows"]
    config = model_config(parse(*tiny))
    size = sum(math.prod(shape) for shape in parameter_shapes(config).values())
    for host in HOSTS:
        train, mapped = (rows[f"{name}, {host}, 1 per chip"] for name in ("train", "train_pmap"))
        # The same step in the same memory, and the same exchange of float32 gradients: at least
        # all parameters once.
        for memory in ("arguments", "temporaries"):
            assert mapped[memory] == pytest.approx(train[memory], rel=0.05)
        assert mapped["collectives"] == train["collectives"] > 0
        assert mapped["MB exchanged"] == train["MB exchanged"] >= 4 * size / 1e6
        assert mapped["MB overlapped"] == train["MB overlapped"]
    evaluate, infer = (rows[f"{name}, v5e:2x2, 1 per chip"] for name in ("evaluate", "infer"))
    assert evaluate["collectives"] == infer["collectives"] == 0
    assert train["TFLOP"] > evaluate["TFLOP"] > 0
    aot.main(parse(*tiny, "--programs", "infer", "--compare", str(file)))


@pytest.mark.aot
@pytest.mark.parametrize("model", ["selector:tiny", "corrector:tiny"])
def test_models_of_the_second_paper_compile_for_a_tpu(model, tmp_path):
    if not importlib.util.find_spec("libtpu"):
        pytest.skip("needs the extra `aot`")
    file = tmp_path / "rows.json"
    aot.main(parse("--model", model, "--programs", "train", "infer", "--json", str(file)))
    train, infer = json.loads(file.read_text())["rows"].values()
    assert train["collectives"] > 0
    assert train["TFLOP"] > infer["TFLOP"] > 0


@pytest.mark.aot
def test_inference_compiles_for_a_gpu(tmp_path):
    if not importlib.util.find_spec("jax_plugins"):
        pytest.skip("needs jax-cuda12-pjrt")
    file = tmp_path / "rows.json"
    size = ["--frames", "2", "--height", "32", "--width", "48", "--channels", "8", "8", "16"]
    options = ["--topology", "h100:1", "--programs", "infer", "--json", str(file)]
    aot.main(parse(*size, *options))
    (infer,) = json.loads(file.read_text())["rows"].values()
    assert infer["GB in main memory"] > 0 < infer["temporaries"]


class Lowered:
    """A program whose compilation fails."""

    def __init__(self, text: str):
        self.text = text

    def compile(self):
        raise jax.errors.JaxRuntimeError(self.text)


def test_a_program_that_does_not_fit_is_told_in_one_sentence():
    full = Lowered("RESOURCE_EXHAUSTED: out of HBM, 28G exceeds 15G.\nLargest: ...")
    with pytest.raises(UserError, match="^32 clips per chip do not fit .* v5e:2x2 .*28G") as error:
        aot.compile_for("v5e:2x2", full, 32)
    assert "Largest" not in str(error.value)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        aot.compile_for("v5e:2x2", Lowered("INTERNAL: a bug"), 32)
