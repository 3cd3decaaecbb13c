"""Learning from reward gives the numbers of one device on eight: the same samples and steps."""

import jax
import numpy as np
import pytest

from jaxtrain import parallel
from tests.contract import battery, cores_lm

pytestmark = pytest.mark.ci  # mostly compilation
ROWS = {row.name: row for row in cores_lm.ROWS if row.random}


@pytest.fixture(scope="module", params=ROWS)
def alone(request):
    row, key = ROWS[request.param], jax.random.key(0)
    batches, core = [row.batch(i) for i in range(3)], row.build(None)
    state = core.init(*row.init_args())
    return row, batches, battery.run(jax.jit(core.update), state, batches, key)


@pytest.mark.parametrize("mode", parallel.MODES)
def test_eight_devices_learn_what_one_learns(alone, mode):
    row, batches, expected = alone
    mesh, key = parallel.make_mesh({"data": -1}), jax.random.key(0)
    assert mesh.size == 8
    core = row.build(parallel.Execution(mode, mesh).axis_name)
    step = parallel.compile_update(core.update, mode=mode, mesh=mesh)
    found = battery.run(step, core.init(*row.init_args()), batches, key)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, battery.raw(found), battery.raw(expected))
