"""Collectives in the text of a compiled program; those of a plan are in tests/experiments."""

from jaxtrain.host import traffic


def test_collectives_are_read_from_program_text():
    text = """
      %all-reduce.4 = f32[64,64]{1,0} all-reduce(%dot.10), channel_id=1
      %fusion = f32[6,64,64]{2,1,0} fusion(%x, %all-reduce.4, %copy.16), kind=kLoop
      %ar = (bf16[8]{0:T(8)}, f32[]) all-reduce-start(%a, %b), to_apply=%add
      %done = (bf16[8], f32[]) all-reduce-done(%ar)
      %g = s32[4,2] all-gather(%c), dimensions={0}
    """
    assert traffic.in_program(text) == {
        "all-reduce": (2, 64 * 64 * 4 + 8 * 2 + 4),
        "all-gather": (1, 32),
    }
