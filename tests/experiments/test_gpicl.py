"""The experiment end to end: three steps, curves, files; resume; grid and sweep; foreign code."""

import json
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import gpicl
from experiments.in_context.settings import Sets, build_core, build_learner
from jaxtrain import TrainState
from jaxtrain.host.checkpoint import Checkpoints, load_arrays
from jaxtrain.host.config import UsageError, load
from jaxtta import in_context as icl
from tests.contract.battery import constants

ROOT = Path(__file__).parents[2]


def run(workdir, *flags, spec="gpicl.py:debug"):
    gpicl.main(argv=[f"--config=configs/{spec}", f"--workdir={workdir}", *flags])


def final(workdir):
    return json.loads((workdir / "summary.json").read_text())["final"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpicl") / "run"
    run(folder)
    return folder


def test_run_ends_with_numbers_curves_and_figures(finished):
    results = final(finished)
    for name in ("seen", "unseen", "raw", "shuffled", "random", "unseen_untrained"):
        assert 0 <= results[f"{name}_first"] <= 1
        difference = results[f"{name}_last"] - results[f"{name}_first"]
        assert results[f"{name}_improvement"] == pytest.approx(difference)
    assert results["provenance"] == "synthetic/generated, random/generated"
    assert results["regime"] in icl.REGIMES and results["plateau_steps"] <= 3
    assert results["state_size"] == 2 * 1 * 2 * 4 * 6
    with np.load(finished / "curves.npz") as curves:
        assert curves["unseen/accuracy"].shape == (6,)
        assert curves["unseen/accuracy"][-1] == pytest.approx(results["unseen_last"])
    assert (finished / "plots" / "in_context.png").stat().st_size > 1000
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 3]
    assert "eval/unseen_last" in lines[-1]


@pytest.mark.ci
def test_resumed_run_is_the_same_run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "3")
    run(tmp_path / "run")
    for name, leaf in load_arrays(finished / "checkpoints" / "3").items():
        again = load_arrays(tmp_path / "run" / "checkpoints" / "3")[name]
        np.testing.assert_array_equal(again, leaf, err_msg=name)
    assert final(tmp_path / "run") == final(finished)
    metrics = [(folder / "metrics.jsonl").read_text() for folder in (finished, tmp_path / "run")]
    assert metrics[0] == metrics[1]


@pytest.mark.ci
def test_map_is_one_program_per_width_and_equals_single_runs(tmp_path):
    grid = "('model.transformer.width=4','model.transformer.width=8')"
    sweep = "--sweep=seed=0:2;tasks.num_tasks=1,1024"
    run(tmp_path / "map", f"--config.grid={grid}", sweep)
    results = final(tmp_path / "map")
    for width in (4, 8):
        entry = results[f"model.transformer.width={width}"]
        assert len(entry["unseen_last"]["trials"]) == 4 and len(entry["regime"]) == 4
    assert (tmp_path / "map" / "plots" / "regimes.png").stat().st_size > 1000
    # The second trial of width 8 (seed 0, 1,024 tasks) by itself.
    run(tmp_path / "one", "--sweep=seed=0;tasks.num_tasks=1024")
    alone = final(tmp_path / "one")
    many = results["model.transformer.width=8"]
    for name in ("seen_loss", "unseen_loss", "raw_loss"):
        value = alone[name] if isinstance(alone[name], list) else [alone[name]]
        np.testing.assert_allclose(value[0], many[name]["trials"][1], atol=1e-3)
    # Resuming runs what is missing and refuses other settings.
    shutil.rmtree(tmp_path / "map" / "model.transformer.width-8" / "checkpoints")
    run(tmp_path / "map", f"--config.grid={grid}", sweep)
    assert final(tmp_path / "map") == results
    with pytest.raises(SystemExit) as stop:
        run(
            tmp_path / "map",
            f"--config.grid={grid}",
            sweep,
            "--config.optimizer.learning_rate=0.5",
        )
    assert stop.value.code == 2


@pytest.mark.ci
@pytest.mark.parametrize(
    "name",
    ["lstm", "outer_product_lstm", "vsml", "unsymmetric_vsml", "fast_weights", "mlp", "online"]
    + ["maml"],
)
def test_every_model_runs(tmp_path, name):
    config = f"gpicl.py:debug,model.name={name},num_steps=1,eval_every=0,data.size=3"
    run(tmp_path, spec=config)
    assert "unseen_last" in final(tmp_path)


def test_the_data_set_is_in_no_program_and_no_checkpoint(finished):
    config, _ = load("configs/gpicl.py:debug")
    sets = Sets(config)
    core = build_core(config, sets, gpicl.learner_of(config, sets))
    batch, key = (sets.training, jnp.arange(config.batch_size)), jax.random.key(0)
    shape = sets.training.inputs.shape
    shapes = lambda function, *args: {x.shape for x in constants(jax.jit(function).trace(*args))}
    assert shape not in shapes(core.update, jax.eval_shape(core.init, key), batch, key)
    assert shape not in shapes(core.init, key)
    closed = lambda state, key: core.update(state, batch, key)
    assert shape in shapes(closed, jax.eval_shape(core.init, key), key), "the control"
    saved = load_arrays(finished / "checkpoints" / "3").values()
    assert shape not in {x.shape for x in saved}


def test_every_model_can_be_built_from_the_config():
    config, _ = load("configs/gpicl.py:debug")
    sets = Sets(config)
    for name in gpicl.build_learner.__globals__["LEARNERS"]:
        with config.unlocked():
            config.model.name = name
        learner = build_learner(config, 16, 10)
        assert learner.num_classes == 10
        core = build_core(config, sets, learner)
        jax.eval_shape(core.init, jax.random.key(0))


@pytest.mark.parametrize(
    "spec, sentence",
    [
        ("model.name=rnn", "choose transformer"),
        ("model.transformer.layout=both", "choose shifted, paired"),
        ("tasks.num_tasks=0", "from 1 to 2147483647"),
        ("tasks.bias=1.5", "must be from 0 to 1"),
        ("tasks.sequences_per_task=3", "multiple of tasks.sequences_per_task=3"),
        ("evaluation.first=7", "between 1 and the 6 positions"),
        ("evaluation.num_sequences=17", "multiple of evaluation.batch_size"),
        ("grid=('optimizer.eps=1',)", "grid entry"),
        ("model.maml.optimizer=rmsprop,model.name=maml", "choose adam, sgd"),
    ],
)
def test_impossible_settings_are_named(spec, sentence):
    with pytest.raises(UsageError, match=sentence):
        config, _ = load(f"configs/gpicl.py:debug,{spec}")
        gpicl.validate(config)


def test_foreign_set_with_too_many_classes_is_refused(tmp_path):
    arrays = {f"{kind}_{part}": np.zeros((40, 4, 4) if kind == "x" else 40, np.uint8)
              for kind in "xy" for part in ("train", "test")}  # fmt: skip
    arrays["x_train"][::2] = 255
    np.savez(tmp_path / "two.npz", **arrays | {"y_train": np.arange(40) % 2})
    spec = f"debug,data.name={tmp_path / 'two.npz'}"
    config, _ = load(f"configs/gpicl.py:{spec},evaluation.foreign=('synthetic',)")
    with pytest.raises(UsageError, match="has 2; choose classes with synthetic:0-1"):
        Sets(config)


def test_example_of_the_document_predicts_from_a_saved_run(tmp_path, monkeypatch):
    """The code of docs/in_context.md, on a run folder as the experiment leaves it."""
    text = (ROOT / "docs" / "in_context.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 14
    monkeypatch.chdir(tmp_path)
    config, _ = load(f"{ROOT}/configs/gpicl.py:small")
    learner = build_learner(config, 16, 4)
    params = jax.jit(learner.init)(jax.random.key(3))
    state = TrainState(params, optax.sgd(0.1).init(params), jnp.float32(0))
    with Checkpoints(tmp_path / "runs" / "in_context" / "checkpoints", every=1) as checkpoints:
        checkpoints.maybe_save(1, state, {}, {})
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 16)) * 3 + 1, np.arange(40) % 4
    np.savez("my_data.npz", x=x, y=y)
    names: dict = {}
    exec(code, names)
    probabilities = np.asarray(names["probabilities"])
    assert probabilities.shape == (20, 4)
    standard = (x - x.mean()) / x.std()
    context = jnp.asarray(standard[None, :20], jnp.float32)
    for q in (0, 7):
        sequence = jnp.concatenate(
            [context, jnp.asarray(standard[None, 20 + q : 21 + q], jnp.float32)], 1
        )
        labels = jnp.asarray(np.append(y[:20], 0)[None], jnp.int32)
        expected = jax.nn.softmax(learner.logits(params, sequence, labels)[0, -1])
        np.testing.assert_allclose(probabilities[q], expected, atol=1e-4)
