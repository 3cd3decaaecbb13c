"""The shape every algorithm has: a pure `init` and a pure `update` on pytrees.

A `Core` is compiled. A `HostCore` is the same two functions with an update in Python, for what no
compiler takes: published models with tokenisers of their own, verifiers, sandboxes, simulators.

A core is right when these rules hold; the contract tests check them for every core.

- `update` is pure: same arguments, same result; no hidden randomness, printing or files.
- State is a pytree of arrays whose structure, shapes and dtypes `update` preserves.
- State owns its arrays: `init` copies what it keeps, so donating the state never deletes the
  caller's arrays.
- The key is an argument, derived by the caller as `fold_in(run_key, step)`.
- Metrics are scalars that are already reduced over the mapped axis; per-example results are
  `outputs`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class StepOutput(NamedTuple):
    """What one update reports.

    Attributes:
      metrics: named scalars `[]`, float32, already reduced over the mapped axis.
      outputs: per-example results, every leaf `[batch, ...]` in batch order; `()` if none.
    """

    metrics: dict[str, jax.Array]
    outputs: Any = ()


class Core(NamedTuple):
    """An algorithm.

    Attributes:
      init: builds the state. Training cores take `(key, example_batch)`, adapters
        `(params, model_state)`, searches `(key, problem)`.
      update: `(state, batch, key) -> (state, StepOutput)`.
    """

    init: Callable[..., Any]
    update: Callable[[Any, Any, Any], tuple[Any, StepOutput]]


class HostCore(NamedTuple):
    """An algorithm whose update is Python.

    The rules of a `Core` hold but those of compilation: state is a pytree of arrays (buffers have a
    fixed capacity, text is token ids), all randomness comes from the key, and the same arguments
    give the same result. It cannot be vectorised, scanned or spread over devices; it may call
    compiled parts that are.

    Attributes:
      init: as of a `Core`.
      update: `(state, batch, key) -> (state, StepOutput)`; leaves of the state may come back as
        NumPy arrays.
    """

    init: Callable[..., Any]
    update: Callable[[Any, Any, Any], tuple[Any, StepOutput]]


class Model(NamedTuple):
    """A network as two pure functions.

    Attributes:
      init: `(key, example_inputs) -> (params, model_state)`.
      apply: `(params, model_state, inputs, *, key, train) -> (outputs, model_state)`; `key` may be
        `None` when the call needs no randomness, `train` is a Python bool.
    """

    init: Callable[[Any, Any], tuple[Any, Any]]
    apply: Callable[..., tuple[Any, Any]]


Scan = Callable[..., tuple[Any, Any]]
"""`(body, init, xs) -> (carry, ys)`: how the steps of a training inside a function are run.

`jax.lax.scan` is one. Another one may save on the way, such as `jaxtrain.host.scans.saving`; it
runs on the host, so what calls it is not compiled as a whole.
"""
