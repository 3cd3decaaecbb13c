"""The start of a run: the order of the four sources, sweeps, and refusals in one sentence."""

from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxtrain.core import Core, StepOutput
from jaxtrain.host import sweep
from jaxtrain.host.begin import first_state, fit, started
from jaxtrain.host.checkpoint import Checkpoints
from jaxtrain.host.cli import Context
from jaxtrain.host.config import UsageError
from jaxtrain.host.data import Generated
from jaxtrain.host.metrics import read
from jaxtrain.parallel import Execution, make_mesh

MESH = make_mesh({"data": 1})
EXECUTION = Execution("jit", MESH)


class State(NamedTuple):
    params: dict[str, jax.Array]
    count: jax.Array


def state(value: float = 0.0) -> State:
    return State({"w": jnp.full((3,), value), "b": jnp.zeros(())}, jnp.zeros((), jnp.int32))


def save(folder: Path, step: int, value: float) -> Path:
    with Checkpoints(folder / "checkpoints", every=1) as checkpoints:
        checkpoints.maybe_save(step, state(value)._replace(count=jnp.int32(step)), {"a": 1}, {})
    return folder


def start(folder: Path, **options: Any) -> Any:
    said: list[str] = []
    with Checkpoints(folder / "checkpoints", every=1) as checkpoints:
        restored = first_state(state, checkpoints, MESH, report=said.append, **options)
    return restored, said[0]


def test_own_checkpoint_then_another_run_then_parameters_then_scratch(tmp_path):
    other, weights = save(tmp_path / "other", 5, 5.0), save(tmp_path / "weights", 7, 7.0)
    sources = {"resume_from": str(other), "init_from": str(weights)}
    found, said = start(save(tmp_path / "own", 3, 3.0), **sources)
    assert (found.step, float(found.tree.params["w"][0]), found.meta) == (3, 3.0, {"a": 1})
    assert said == "starting from step 3 of own"
    found, said = start(tmp_path / "new", **sources)
    assert (found.step, float(found.tree.params["w"][0]), found.meta) == (5, 5.0, {})
    assert said == "starting from state and step 5 of other"
    found, said = start(tmp_path / "new", init_from=str(weights))
    assert (found.step, float(found.tree.params["w"][0])) == (0, 7.0)
    assert int(found.tree.count) == 0 and said == "starting from the parameters of weights"
    found, said = start(tmp_path / "new")
    assert (found.step, said) == (0, "starting from scratch")
    chex.assert_trees_all_equal(found.tree, state())


def test_every_trial_of_a_sweep_starts_from_the_given_parameters(tmp_path):
    weights = save(tmp_path / "weights", 7, 7.0)
    init = lambda: jax.vmap(state)(jnp.arange(4.0))
    with Checkpoints(tmp_path / "new", every=1) as checkpoints:
        found = first_state(init, checkpoints, MESH, init_from=str(weights), num_trials=4)
    np.testing.assert_array_equal(found.tree.params["w"], np.full((4, 3), 7.0))
    chex.assert_trees_all_equal_shapes_and_dtypes(found.tree, init())


@pytest.mark.parametrize("name", ["resume_from", "init_from"])
def test_what_cannot_be_used_is_named_in_one_sentence(tmp_path, name):
    with Checkpoints(tmp_path / "checkpoints", every=1) as checkpoints:
        checkpoints.maybe_save(1, {"other": jnp.zeros(2)}, {}, {})
    with pytest.raises(
        UsageError, match=r"checkpoints/?1?.*(another state|no checkpoint)"
    ) as error:
        start(tmp_path / "new", **{name: str(tmp_path)})
    assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="holds no checkpoint"):
        start(tmp_path / "new", **{name: str(tmp_path / "new")})


def test_a_damaged_own_checkpoint_is_not_started_over(tmp_path):
    run = save(tmp_path / "own", 3, 3.0)
    for file in (run / "checkpoints" / "3").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:10])
    with pytest.raises(UsageError, match="no checkpoint in .* can be used"):
        start(run)


def counting() -> Core:
    def update(state: State, batch: jax.Array, key: jax.Array) -> tuple[State, StepOutput]:
        return state._replace(count=state.count + 1), StepOutput({"loss": batch.mean()})

    return Core(lambda key: state(), update)


CONFIG = ConfigDict(
    dict(
        num_steps=4,
        log_every=2,
        eval_every=2,
        checkpoint=dict(every=2, keep=1, keep_best=""),
        resume_from="",
        init_from="",
        tensorboard=False,
        wandb="",
    )
)


def test_a_run_is_trained_evaluated_saved_and_continued(tmp_path):
    core = counting()
    data = Generated(lambda key, index: index.astype(jnp.float32), 4)
    config = CONFIG.copy_and_resolve_references()
    key = jax.random.key(0)
    for num_steps, start_step in ((2, 0), (4, 2)):
        config.num_steps = num_steps
        with started(lambda: core.init(key), config, Context(tmp_path, EXECUTION, None, {})) as run:
            assert (run.step, int(run.state.count)) == (start_step, start_step)
            last = fit(run, core, data, key, evaluate=lambda s, step, key: {"count": s.count})
        assert int(last.count) == num_steps
    rows = read(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [2, 2, 4, 4]
    assert [row["eval/count"] for row in rows if "eval/count" in row] == [2.0, 4.0]


def test_an_evaluation_needs_something_to_evaluate(tmp_path):
    context = Context(tmp_path, EXECUTION, None, {})
    with pytest.raises(UsageError, match="nothing to evaluate"):
        with started(state, CONFIG, context, scratch=False):
            pass
    save(tmp_path, 3, 3.0)
    with started(state, CONFIG, context, scratch=False) as run:
        assert run.step == 3


def test_a_sweep_is_started_with_its_trial_axis(tmp_path):
    weights = save(tmp_path / "weights", 7, 7.0)
    axes = sweep.parse("seed=0:2", ())
    core = sweep.swept(lambda values: counting(), axes)
    config = CONFIG.copy_and_resolve_references()
    config.init_from = str(weights)
    context = Context(tmp_path / "run", EXECUTION, axes, {})
    with started(lambda: core.init(jax.random.key(0)), config, context) as run:
        np.testing.assert_array_equal(run.state.params["w"], np.full((2, 3), 7.0))


def test_a_training_without_updates_is_refused(tmp_path):
    """Else weights and tables are written as if it had trained."""
    other = save(tmp_path / "other", 4, 4.0)
    config = CONFIG.copy_and_resolve_references()
    config.resume_from = str(other)
    context = Context(tmp_path / "run", EXECUTION, None, {})

    def begun(**changes):
        config.update(changes)
        with started(state, config, context) as run:
            return run.step

    with pytest.raises(UsageError, match="other is after update 4, so num_steps=4 leaves nothing"):
        begun()
    assert begun(num_steps=6) == 4
    with started(state, config, context, scratch=False) as run:  # an evaluation trains nothing
        assert run.step == 4
    save(tmp_path / "run", 6, 6.0)
    assert begun() == 6, "a run that has ended cannot be reported again"
    with pytest.raises(UsageError, match="this run is after update 6, so num_steps=5 leaves"):
        begun(num_steps=5)
