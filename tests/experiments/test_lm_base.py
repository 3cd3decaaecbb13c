"""The command that makes base models: three updates, weights, exam, figures; what is refused."""

import json
import shutil

import jax
import numpy as np
import pytest

from experiments import lm_base
from experiments.lm.bases import load_base
from jaxtrain.host.checkpoint import load_arrays
from jaxtrain.host.config import UsageError, load


def run(workdir, *flags, spec="debug"):
    lm_base.main(argv=[f"--config=configs/lm_base.py:{spec}", f"--workdir={workdir}", *flags])
    return json.loads((workdir / "summary.json").read_text())["final"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm_base") / "run"
    return folder, run(folder)


def test_a_run_ends_with_an_exam_and_figures(finished):
    folder, final = finished
    assert {"accuracy", "accuracy_greedy", "accuracy_1_steps", "fixed_doubt"} <= final.keys()
    accuracy = final["accuracy"]
    assert 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1
    for name in ("abilities", "loss"):
        assert (folder / "plots" / f"{name}.png").stat().st_size > 1000
    losses = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").open()]
    assert len(losses) == 3 and losses[-1] < losses[0]


def test_the_weights_can_be_loaded(finished):
    folder, final = finished
    base = load_base(str(folder / "base.npz"))
    saved = load_arrays(folder / "checkpoints" / "3")
    leaves = jax.tree.leaves(base.params)
    assert sum(x.size for x in leaves) == final["num_parameters"]
    written = {np.float16(x).tobytes() for name, x in saved.items() if name.startswith("params")}
    assert written == {np.float16(x).tobytes() for x in leaves}
    assert base.recipe.depths == (1, 2)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("recipe.requests=(0.5,0.2,0.2)", "must sum to 1"),
        ("recipe.kept=(0.5,0.5)", "a number for each request: neutral, doubt, trust"),
        ("model.vocabulary=60", "must be at least 61"),
        ("model.num_kv_heads=2,model.num_heads=3", "must divide num_heads"),
        ("recipe.depths=()", "at least one value"),
        ("recipe.told=0,optimizer.schedule=autolrs(max_lr=1)", "needs min_lr"),
    ],
)
def test_impossible_settings_are_named(spec, sentence):
    with pytest.raises(ValueError, match=sentence):
        config, _ = load(f"configs/lm_base.py:debug,{spec}")
        lm_base.validate(config)


def test_a_base_can_be_begun_with_if_its_network_is_the_same(finished):
    file = str(finished[0] / "base.npz")
    base = load_base(file)
    read = lm_base.read_params(file, base.params)
    assert jax.tree.map(np.array_equal, read, base.params) == jax.tree.map(lambda x: True, read)
    with pytest.raises(UsageError, match="of another network"):
        lm_base.read_params(file, {"x": np.ones(3)})


@pytest.mark.ci
def test_a_resumed_run_is_the_same_run(finished, tmp_path):
    folder, final = finished
    shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "3")
    assert run(tmp_path / "run") == final
    again = load_arrays(tmp_path / "run" / "checkpoints" / "3")
    for name, leaf in load_arrays(folder / "checkpoints" / "3").items():
        np.testing.assert_array_equal(again[name], leaf, err_msg=name)
    metrics = [(x / "metrics.jsonl").read_text() for x in (folder, tmp_path / "run")]
    assert metrics[0] == metrics[1]


@pytest.mark.ci
def test_a_sweep_leaves_a_base_per_seed(tmp_path):
    final = run(tmp_path / "run", "--sweep=seed=0:2")
    one, other = (load_base(str(tmp_path / "run" / f"base_{i}.npz")) for i in range(2))
    first = lambda base: np.asarray(jax.tree.leaves(base.params)[0])
    assert (first(one) != first(other)).any()
    assert final["accuracy"]["value"] <= 1


@pytest.mark.ci
@pytest.mark.parametrize(
    ("name", "low", "high"), [("tiny", 0.3, 0.5), ("small", 0.3, 0.5), ("careful", 0.3, 0.6)]
)
def test_shipped_bases_can_do_what_the_config_says(name, low, high):
    from experiments.lm import abilities

    base = load_base(name)
    examine = jax.jit(
        lambda key: abilities.examine(base.model, base.recipe, base.params, key, 64, 4)
    )
    found = abilities.measured([jax.device_get(examine(jax.random.key(0)))])
    assert low < found["accuracy"].value < high


def test_a_config_of_another_command_is_refused():
    with pytest.raises(UsageError, match="impossible"):
        load("configs/lm_base.py:debug,batch_size=0")
