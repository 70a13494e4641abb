"""Bytes to and from HBM, by a module small enough to add up by hand."""

import pytest

from segjax import hlo, traffic

MAP = "bf16[16,8,64]{2,1,0:T(8,128)(2,1)}"  # 64 channels in 128 lanes
NEAR = MAP.replace("(2,1)}", "(2,1)S(1)}")
SIZE = 16 * 8 * 128 * 2
ROW = "bf16[1,8,64]{2,1,0:T(8,128)(2,1)}"
TEXT = f"""HloModule jit_f, is_scheduled=true

%both (p: bf16[16,8,64], q: bf16[16,8,64], i: s32[]) -> (bf16[], bf16[]) {{
  %p = {MAP} parameter(0)
  %q = {MAP} parameter(1)
  %i = s32[] parameter(2)
  %row = {ROW} dynamic-slice(%p, %i), dynamic_slice_sizes={{1,8,64}}
  %next = {MAP} dynamic-update-slice(%q, %row, %i)
  %same = {MAP} bitcast(%next)
  %sum = {MAP} add(%q, %q)
  ROOT %t = ({MAP}, {NEAR}) tuple(%same, %sum)
}}

%body (state: (s32[], bf16[16,8,64])) -> (s32[], bf16[16,8,64]) {{
  %state = (s32[], {MAP}) parameter(0)
  %j = s32[] get-tuple-element(%state), index=0
  %x = {MAP} get-tuple-element(%state), index=1
  %f = ({MAP}, {NEAR}) fusion(%x, %x, %j), kind=kLoop, calls=%both
  %y = {MAP} get-tuple-element(%f), index=0
  ROOT %out = (s32[], {MAP}) tuple(%j, %y)
}}

%cond (s: (s32[], bf16[16,8,64])) -> pred[] {{
  %s = (s32[], {MAP}) parameter(0)
  %k = s32[] get-tuple-element(%s), index=0
  %five = s32[] constant(5)
  ROOT %lt = pred[] compare(%k, %five), direction=LT
}}

%square (r: bf16[16,8,64]) -> bf16[16,8,64] {{
  %r = {MAP} parameter(0)
  ROOT %rr = {MAP} multiply(%r, %r)
}}

ENTRY %main (a: bf16[16,8,64]) -> (s32[], bf16[16,8,64]) {{
  %a = {MAP} parameter(0)
  %zero = s32[]{{:S(1)}} constant(0)
  %copied = ({NEAR}, {MAP}, u32[]{{:S(2)}}) copy-start(%a)
  %near = {NEAR} copy-done(%copied)
  %again = {MAP} fusion(%near), kind=kLoop, calls=%square
  %part = (({MAP}), {ROW.replace("}", "S(1)}")}, s32[]{{:S(2)}}) slice-start(%again)
  %done = {ROW.replace("}", "S(1)}")} slice-done(%part)
  %joined = {NEAR} custom-call(%done), custom_call_target="ConcatBitcast"
  %tuple = (s32[], {MAP}) tuple(%zero, %again)
  ROOT %loop = (s32[], {MAP}) while(%tuple), condition=%cond, body=%body
}}
"""


@pytest.mark.parametrize(
    "shape, found",
    [
        ("f32[]{:T(128)}", [(512, True)]),
        ("f32[100]{0:T(128)S(1)}", [(512, False)]),
        (MAP, [(SIZE, True)]),
        # The minor dimension is the first one here.
        ("bf16[64,3,9]{0,2,1:T(4,128)(2,1)}", [(3 * 12 * 128 * 2, True)]),
        ("f32[4,5]{1,0}", [(80, True)]),
        (f"({NEAR}, u32[2]{{0:S(2)}})", [(SIZE, False), (8, False)]),
    ],
)
def test_padding_and_memory_of_an_array(shape, found):
    assert list(traffic.arrays(shape)) == found


def test_what_moves():
    row = SIZE // 16
    once = SIZE  # of the copy, one end lies in HBM
    once += SIZE  # the fusion reads what is near, and writes
    once += row  # a slice comes near; joining it moves nothing
    # The loop reads x once, whole, for the sum, which stays near; it writes a row.
    each = SIZE + row + 4
    assert traffic.hbm_traffic(hlo.parse(TEXT)) == once + 5 * each


def test_of_a_sliced_map_the_slices():
    text = TEXT.replace("add(%q, %q)", "negate(%row)")
    row = SIZE // 16
    each = row + row + 4  # q is updated where it lies
    once = 2 * SIZE + row
    assert traffic.hbm_traffic(hlo.parse(text)) == once + 5 * each


def test_a_fusion_within_a_fusion():
    text = TEXT.replace("multiply(%r, %r)", "fusion(%r, %r), calls=%inner")
    text = text.replace(
        "ENTRY",
        f"%inner (u: bf16[16,8,64], v: bf16[16,8,64]) -> bf16[16,8,64] {{\n"
        f"  %u = {MAP} parameter(0)\n  %v = {MAP} parameter(1)\n"
        f"  ROOT %w = {MAP} add(%u, %v)\n}}\n\nENTRY",
    )
    plain = traffic.hbm_traffic(hlo.parse(TEXT))
    assert traffic.hbm_traffic(hlo.parse(text)) == plain
    far = text.replace("fusion(%near), kind", "fusion(%a), kind")
    assert traffic.hbm_traffic(hlo.parse(far)) == plain + SIZE  # not twice


FAR_ROW, NEAR_ROW = ROW, ROW.replace("(2,1)}", "(2,1)S(1)}")
PART = SIZE // 16


@pytest.mark.parametrize(
    "line, moved",
    [
        (f"%x = {NEAR_ROW} slice(%far), slice={{[0:1]}}", PART),  # comes near
        (f"%x = {FAR_ROW} slice(%far), slice={{[0:1]}}", 2 * PART),
        (f"%x = {FAR_ROW} slice(%near), slice={{[0:1]}}", PART),
        (f"%x = {MAP} dynamic-update-slice(%far, %row, %i)", 2 * PART),
        (f"%x = {NEAR} dynamic-update-slice(%near, %row, %i)", PART),
        (f"%x = ({FAR_ROW}, {MAP}) all-gather-start(%row)", PART + SIZE),
        (f"%x = {MAP} all-reduce(%near)", SIZE),
        (f"%x = {MAP} fusion(%far, %row, %i), calls=%update", 2 * PART),
        (f"%x = {MAP} fusion(%row, %i), calls=%filled", SIZE + PART),
        (f"%x = {NEAR_ROW} fusion(%far, %i), calls=%turned", PART),
    ],
)
def test_of_one_instruction(line, moved):
    text = f"""HloModule jit_f, is_scheduled=true

%update (p: bf16[16,8,64], r: bf16[1,8,64], i: s32[]) -> bf16[16,8,64] {{
  %p = {MAP} parameter(0)
  %r = {ROW} parameter(1)
  %i = s32[] parameter(2)
  ROOT %u = {MAP} dynamic-update-slice(%p, %r, %i)
}}

%filled (r: bf16[1,8,64], i: s32[]) -> bf16[16,8,64] {{
  %r = {ROW} parameter(0)
  %i = s32[] parameter(1)
  %zero = bf16[] constant(0)
  %all = {MAP} broadcast(%zero), dimensions={{}}
  ROOT %u = {MAP} dynamic-update-slice(%all, %r, %i)
}}

%turned (p: bf16[16,8,64], i: s32[]) -> bf16[1,8,64] {{
  %p = {MAP} parameter(0)
  %i = s32[] parameter(1)
  %same = {MAP} bitcast(%p)
  %s = {ROW} dynamic-slice(%same, %i), dynamic_slice_sizes={{1,8,64}}
  ROOT %n = {ROW} negate(%s)
}}

ENTRY %main (far: bf16[16,8,64]) -> bf16[] {{
  %far = {MAP} parameter(0)
  %near = {NEAR} parameter(1)
  %row = {ROW} parameter(2)
  %i = s32[]{{:S(6)}} parameter(3)
  {line}
  ROOT %done = bf16[] constant(0)
}}
"""
    assert traffic.hbm_traffic(hlo.parse(text)) == moved
