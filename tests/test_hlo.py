"""The account of a program, by a module small enough to add up by hand."""

import pytest

from segjax import hlo

CYCLES = 'backend_config={"window_config":{"estimated_cycles":"%d"}}'
NAME = 'metadata={op_name="jit(f)/%s"}'
FORWARD = NAME % "jvp(Segmenter)/Segmenter.scores/decoder/block4/conv1/dot"
BACKWARD = NAME % "transpose(jvp(Segmenter))/Segmenter.scores/encoder/layer1/block0/mul"
TEXT = f"""HloModule jit_f, is_scheduled=true

%fused (p: f32[8,128]) -> f32[8,128] {{
  %p = f32[8,128]{{1,0:T(8,128)}} parameter(0)
  ROOT %double = f32[8,128]{{1,0:T(8,128)}} add(%p, %p)
}}

%body (state: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {{
  %state = (s32[], f32[8,128]{{1,0:T(8,128)}}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[8,128]{{1,0:T(8,128)}} get-tuple-element(%state), index=1
  %y = f32[8,128]{{1,0:T(8,128)}} fusion(%x), kind=kLoop, calls=%fused, \
{BACKWARD}, {CYCLES % 100}
  ROOT %next = (s32[], f32[8,128]{{1,0:T(8,128)}}) tuple(%i, %y)
}}

%cond (state: (s32[], f32[8,128])) -> pred[] {{
  %five = s32[]{{:T(128)}} constant(5)
  %state.1 = (s32[], f32[8,128]) parameter(0)
  %j = s32[] get-tuple-element(%state.1), index=0
  ROOT %lt = pred[]{{:T(512)}} compare(%j, %five), direction=LT
}}

ENTRY %main (a: f32[8,128], b: bf16[64,128]) -> (s32[], f32[8,128]) {{
  %a = f32[8,128]{{1,0:T(8,128)}} parameter(0)
  %b = bf16[64,128]{{1,0:T(8,128)(2,1)}} parameter(1)
  %zero = s32[]{{:T(128)}} constant(0)
  %start = ((bf16[64,128]{{1,0}}), bf16[16,128]{{1,0:T(8,128)S(1)}}, s32[]{{:S(2)}}) \
slice-start(%b), slice={{[0:16], [0:128]}}
  %part = bf16[16,128]{{1,0:T(8,128)S(1)}} slice-done(%start)
  %c = f32[8,128]{{1,0:T(8,128)}} fusion(%a, %part), kind=kOutput, calls=%fused, \
{FORWARD}, {CYCLES % 7}
  %sum = f32[8,128]{{1,0}} all-reduce(%c), to_apply=%fused
  %from = s32[] copy(%zero)
  %tuple = (s32[], f32[8,128]) tuple(%from, %sum)
  ROOT %loop = (s32[], f32[8,128]) while(%tuple), condition=%cond, body=%body
}}
"""


def test_a_loops_body_counts_as_often_as_it_runs():
    total = hlo.account(hlo.parse(TEXT))
    assert total.cycles == 7 + 5 * 100
    # 8x128 float32 are 4096 bytes, 16x128 bfloat16 as well; a scalar has 4.
    fusion, forward = 2 * 4096, 3 * 4096
    prefetch, reduced, scalar = 2 * (4096 + 4), 2 * 4096, 2 * 4
    once = forward + prefetch + reduced + scalar + fusion
    assert total.bytes_once == once
    assert total.bytes == once + 4 * fusion
    assert total.scopes == {
        ("decoder/block4", "forward"): (7, forward),
        ("encoder/layer1", "backward"): (500, 5 * fusion),
    }
    assert total.collectives == {"all-reduce": [1, 4096]}
    assert total.unestimated == {"all-reduce": reduced, "copy": scalar}
    assert total.prefetched == {"slice": prefetch}
    assert total.unestimated_share == pytest.approx((reduced + scalar) / total.bytes)
    assert total.unknown_loops == []
    assert total.costliest(1) == [("encoder/layer1", "backward", 500, 5 * fusion)]


@pytest.mark.parametrize(
    "old, new",
    [
        ("direction=LT", "direction=NE"),
        ("constant(0)", "constant(2)"),  # JAX's loops begin at 0
        ("copy(%zero)", "add(%zero, %zero)"),
    ],
)
def test_a_loop_that_cannot_be_read_is_told(old, new):
    assert old in TEXT
    total = hlo.account(hlo.parse(TEXT.replace(old, new)))
    assert total.unknown_loops == ["loop"] and total.cycles == 107


def test_collectives_within_fusions_count():
    inside = TEXT.replace("add(%p, %p)", "reduce-scatter(%p)")
    assert hlo.account(hlo.parse(inside)).collectives == {
        "all-reduce": [1, 4096],
        "reduce-scatter": [1 + 5, 6 * 4096],
    }


def test_a_known_trip_count_wins():
    known = 'body=%body, backend_config={"known_trip_count":{"n":"3"}}'
    total = hlo.account(hlo.parse(TEXT.replace("body=%body", known)))
    assert total.cycles == 7 + 3 * 100


def test_of_branches_the_costliest_counts():
    branches = TEXT.replace(
        "while(%tuple), condition=%cond, body=%body",
        "conditional(%zero, %tuple, %tuple), branch_computations={%cond, %body}",
    )
    assert hlo.account(hlo.parse(branches)).cycles == 107


@pytest.mark.parametrize(
    "text, size",
    [
        ("bf16[4,8]{1,0:T(8,128)(2,1)}", 64),
        ("(f32[3]{0}, /*index=1*/pred[], s64[2,2])", 12 + 1 + 32),
        ("f32[0,5]", 0),
        ("token[]", 0),
    ],
)
def test_shapes(text, size):
    assert hlo.shape_bytes(text) == size


@pytest.mark.parametrize(
    "name, found",
    [
        ("jit(f)/jvp(Segmenter)/head/conv_general_dilated", ("head", "forward")),
        ("jit(train_step)/augment/vmap()/jit(clip)/max", ("augment", "forward")),
        ("jit(f)/transpose(jvp(loss))/mul", ("loss", "backward")),
        ("jit(f)/S/S.scores/decoder/a/a._batch/while/body/b", ("decoder/a", "forward")),
        ("jit(f)/bwW,bhWc->bhwc/dot_general", ("step", "forward")),
        ("", ("step", "forward")),
    ],
)
def test_scopes(name, found):
    assert hlo.scope(name) == found


def test_text_without_an_entry_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("HloModule nothing")
