"""Reading collectives from program text, literally."""
# Lines are as XLA prints them.
# ruff: noqa: E501

import pytest

from nulls_jax.planning import collectives

# A loop of 32 runs that starts an overlapped all-gather, of which two pieces
# name the same channel, and reduces and scatters; after it an all-reduce of a
# pair and an exchange.
TEXT = """\
HloModule jit_update, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%gather_start (p: bf16[1,120,512]) -> (bf16[1,120,512], bf16[1,960,512]) {
  %p = bf16[1,120,512]{2,1,0:T(8,128)(2,1)} parameter(0)
  %all-gather.1 = bf16[1,960,512]{2,1,0:T(8,128)(2,1)S(1)} all-gather(%p), channel_id=7, replica_groups=mesh['axis_0'=8,'axis_1'=32], device_ids=([32,8]T(1,0)) {'axis_0'}, dimensions={1}
  ROOT %c = (bf16[1,120,512], bf16[1,960,512]) custom-call(%all-gather.1)
}

%gather_end (p: bf16[1,120,512]) -> bf16[1,960,512] {
  %p = bf16[1,120,512]{2,1,0} parameter(0)
  ROOT %all-gather.2 = bf16[1,960,512]{2,1,0} all-gather(%p), channel_id=7, replica_groups=mesh['axis_0'=8,'axis_1'=32], device_ids=([32,8]T(1,0)) {'axis_0'}, dimensions={1}
}

%all-reduce-scatter.3 (p: f32[960,512]) -> f32[120,512] {
  %p = f32[960,512]{1,0} parameter(0)
  %all-reduce.5 = f32[960,512]{1,0:T(8,128)} all-reduce(%p), channel_id=8, replica_groups={{0,1,2,3,4,5,6,7},{8,9,10,11,12,13,14,15}}, to_apply=%add
  ROOT %slice = f32[120,512]{1,0} dynamic-slice(%all-reduce.5)
}

%body (state: (s32[], f32[960,512])) -> (s32[], f32[960,512]) {
  %state = (s32[]{:T(128)}, f32[960,512]{1,0}) parameter(0)
  %x = f32[960,512]{1,0} get-tuple-element(%state), index=1
  %start = (bf16[1,120,512], bf16[1,960,512]) fusion(%x), kind=kCustom, calls=%gather_start
  %end = bf16[1,960,512] fusion(%x), kind=kCustom, calls=%gather_end
  %part = f32[120,512] fusion(%x), kind=kCustom, calls=%all-reduce-scatter.3
  ROOT %next = (s32[]{:T(128)}, f32[960,512]{1,0}) tuple(%state)
}

%condition (state: (s32[], f32[960,512])) -> pred[] {
  %limit = s32[]{:T(128)} constant(32)
  %state = (s32[]{:T(128)}, f32[960,512]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

ENTRY %main (x: f32[960,512]) -> f32[960,512] {
  %x = f32[960,512]{1,0} parameter(0)
  %while.1 = (s32[]{:T(128)}, f32[960,512]{1,0}) while(%x), condition=%condition, body=%body
  %all-reduce.9 = (f32[]{:T(128)}, f32[2,960]{1,0}) all-reduce(%x, %x), channel_id=9, replica_groups=[1,256]<=[256], to_apply=%add
  %all-to-all.1 = bf16[8,120]{1,0} all-to-all(%x), channel_id=10, replica_groups=[32,8]<=[256], dimensions={0}
  %alone = f32[960]{0} all-reduce(%x), channel_id=11, replica_groups=[256,1]<=[256], to_apply=%add
  ROOT %r = f32[960,512]{1,0} get-tuple-element(%while.1), index=1
}
"""


def found(text):
  return {
    one.kind: (one.count, one.bytes, one.sent) for one in collectives.read(text)
  }


def test_loops_count_as_often_as_they_run():
  gathered = 960 * 512 * 2
  reduced = 960 * 512 * 4
  pair = 4 * (1 + 2 * 960)
  assert found(TEXT) == {
    "all-gather": (32, 32 * gathered, 32 * gathered * 7 // 8),
    "reduce-scatter": (32, 32 * reduced, 32 * reduced * 7 // 8),
    "all-reduce": (1, pair, 2 * (pair * 255 // 256)),
    "all-to-all": (1, 8 * 120 * 2, 8 * 120 * 2 * 7 // 8),
  }


def test_a_trip_count_that_the_compiler_gives_is_taken():
  text = TEXT.replace(
    "body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"5"}}'
  )
  assert found(text)["all-gather"][0] == 5


def test_a_loop_of_unknown_length_counts_once():
  text = TEXT.replace("direction=LT", "direction=NE")
  assert found(text)["all-gather"][0] == 1


def test_started_collectives_count_their_result_once():
  text = """\
ENTRY %main (x: f32[4,128]) -> f32[8,128] {
  %x = f32[4,128]{1,0} parameter(0)
  %s = (f32[4,128]{1,0}, f32[8,128]{1,0}) all-gather-start(%x), channel_id=1, replica_groups={{0,1}}, dimensions={0}
  ROOT %d = f32[8,128]{1,0} all-gather-done(%s)
}
"""
  assert found(text) == {"all-gather": (1, 4096, 2048)}


def test_operations_that_share_a_channel_both_count():
  line = "  %alone = f32[960]{0} all-reduce(%x), channel_id=11"
  other = (
    "  %again = f32[60,512]{1,0} reduce-scatter(%x), channel_id=8, "
    "replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}, to_apply=%add\n"
  )
  reduced = 32 * 960 * 512 * 4 + 480 * 512 * 4
  both = found(TEXT.replace(line, other + line))["reduce-scatter"]
  assert both == (33, reduced, reduced * 7 // 8)


def test_a_reduce_scatter_is_as_large_as_what_it_reduces():
  text = """\
ENTRY %main (x: f32[8,128]) -> f32[2,128] {
  %x = f32[8,128]{1,0} parameter(0)
  ROOT %s = f32[2,128]{1,0} reduce-scatter(%x), channel_id=1, replica_groups={{0,1,2,3}}, dimensions={0}, to_apply=%add
}
"""
  assert found(text) == {"reduce-scatter": (1, 4096, 3072)}


@pytest.mark.parametrize(
  ("kind", "sent"),
  [
    ("all-gather", 700),
    ("reduce-scatter", 700),
    ("all-to-all", 700),
    ("all-reduce", 1400),
    ("collective-permute", 800),
  ],
)
def test_what_a_chip_sends(kind, sent):
  assert collectives.sent_bytes(kind, 800, 8) == sent
