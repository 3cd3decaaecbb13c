"""The loop keeps the largest of what may not be averaged."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.core import Core, StepOutput
from jaxtrain.host import loop
from jaxtrain.host.data import Generated
from jaxtrain.host.metrics import Writer, read
from jaxtrain.parallel import Execution, make_mesh


def test_of_a_mismatch_a_line_has_the_largest_and_of_others_the_mean(tmp_path):
    def update(count, batch, key):
        size = jnp.abs(count - 3.0)
        return count + 1, StepOutput({"loss": size, "largest_mismatch_4": size})

    seen = []
    with Writer(tmp_path, tensorboard=False) as writer:
        loop.train(
            Core(lambda: jnp.zeros(()), update),
            jnp.zeros(()),
            data=Generated(lambda key, index: index, 1),
            key=jax.random.key(0),
            num_steps=6,
            log_every=4,
            execution=Execution("jit", make_mesh({"data": 1})),
            writer=writer,
            check=lambda rows: seen.append(rows["largest_mismatch_4"]),
        )
    lines = read(tmp_path / "metrics.jsonl")
    assert [line["largest_mismatch_4"] for line in lines] == [3, 2]
    assert [line["loss"] for line in lines] == [1.5, 1.5]
    np.testing.assert_array_equal(np.concatenate(seen), [3, 2, 1, 0, 1, 2])
