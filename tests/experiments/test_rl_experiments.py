"""The reinforcement-learning experiments end to end: three steps, evaluation, files, resume."""

import json
import re

import jax
import numpy as np
import pytest

from experiments import meta_rl, ppo
from experiments.rl import environments
from jaxrl.meta import rule_files
from jaxtrain.host import cli, experiment, sweep
from jaxtrain.host.config import UsageError, load
from jaxtrain.host.settings import recorded
from jaxtrain.parallel import Execution, make_mesh
from tests.source_tree import ROOT


def run(module, spec, workdir, *flags):
    module.main(argv=[f"--config=configs/{spec}", f"--workdir={workdir}", *flags])
    return json.loads((workdir / "summary.json").read_text())["final"]


def test_ppo_trains_several_seeds(tmp_path):
    final = run(ppo, "ppo.py:debug", tmp_path, "--sweep=seed=0:2;loss.entropy_coef=0.0,0.1")
    assert len(final["return"]["trials"]) == 4 and "solved" in final
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {line["step"] for line in lines} == {1, 2, 3}
    assert (tmp_path / "plots" / "episode_return.png").stat().st_size > 1000
    assert (tmp_path / "checkpoints" / "3").is_dir()


@pytest.mark.ci
@pytest.mark.parametrize("method", ["dpo", "a2c"])
def test_other_methods_run(tmp_path, method):
    final = run(ppo, f"ppo.py:debug,method={method}", tmp_path)
    assert final["return"] > 5


def test_meta_rl_saves_a_rule_that_others_can_use(tmp_path):
    """By the command of docs/meta_rl.md for a small trained rule, in its smallest form."""
    page = (ROOT / "docs" / "meta_rl.md").read_text()
    stated = re.search(r"`<run folder>/rule.npz`:\n\n```bash\n(.*)\n```", page)
    program, spec, workdir = stated[1].rsplit(" ", 2)
    assert program == "python -m experiments.meta_rl" and workdir == "--workdir=runs/small_lpg"
    path, variant = spec.removeprefix("--config=configs/").split(":")
    small, _ = load(f"configs/{path}:{variant}")
    assert small.num_steps * small.batch_size <= 200 * 32, "longer than what the page timed"
    final = run(meta_rl, f"{path}:debug", tmp_path)
    assert {"return_2", "normalised_4", "normalised"} <= final.keys()
    assert (tmp_path / "plots" / "schedule.png").stat().st_size > 1000
    rule, eta, about = rule_files.read(tmp_path / "rule.npz")
    assert about["rule"]["temporal"] and "minimise" in about["sign"]
    assert any(np.abs(x).max() > 0 for x in jax.tree.leaves(eta))
    assert rule.num_predictions == 3


@pytest.mark.ci
def test_a_sweep_of_meta_rl_has_a_rule_and_a_meta_test_per_trial(tmp_path):
    """The first trial of seeds 5 and 6 is the one of seed 5 alone."""
    options = ("--config.num_steps=1", "--config.checkpoint.every=1", "--config.eval_every=0")
    both = run(meta_rl, "meta_rl.py:debug", tmp_path / "both", "--sweep=seed=5:7", *options)
    one = run(meta_rl, "meta_rl.py:debug", tmp_path / "one", "--sweep=seed=5", *options)
    assert len(both["return_4"]["trials"]) == 2
    np.testing.assert_allclose(both["return_4"]["trials"][0], one["return_4"][0], rtol=1e-5)
    rules = [
        rule_files.read(tmp_path / name / "rule.npz")[1]
        for name in ("both/trial_0", "both/trial_1", "one/trial_0")
    ]
    first, second, alone = (
        np.concatenate([x.ravel() for x in map(np.asarray, jax.tree.leaves(r))]) for r in rules
    )
    np.testing.assert_allclose(first, alone, rtol=1e-4, atol=1e-6)
    assert np.abs(first - second).max() > 1e-4
    assert (tmp_path / "both" / "trial_1" / "plots" / "schedule.png").exists()


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param("debug", marks=pytest.mark.ci),
        pytest.param("debug_meta_gradient", marks=pytest.mark.ci),
        "debug_lpo",
    ],
)
def test_every_number_that_meta_rl_sweeps_can_be_traced(variant):
    config, _ = load(f"configs/meta_rl.py:{variant}")
    watched, reads = recorded(config)
    setup = cli.Setup(Execution("jit", make_mesh({"data": 1})), None, {"mode": "train"})
    experiment.prepared(meta_rl.build(watched, setup), watched, setup)
    names = [name for name in meta_rl.SWEEPABLE if name in reads.keys]
    values = {name: np.float32([0.5, 0.6]) for name in names}
    setup = setup._replace(sweep=sweep.Axes(tuple(names), values))
    training = meta_rl.build(config, setup)
    experiment.prepared(training, config, setup)  # traces the state of all trials
    core = experiment.core_of(training, config, setup.sweep, None)
    state = jax.eval_shape(core.init, jax.random.key(0))
    new, _ = jax.eval_shape(core.update, state, np.arange(config.batch_size), jax.random.key(0))
    assert jax.tree.leaves(new)[0].shape[0] == 2


@pytest.mark.ci
@pytest.mark.parametrize(
    ("variant", "number", "plots"),
    [
        ("debug_meta_gradient", "normalised", {"schedule.png"}),
        ("debug_lpo", "ppo_return_2", {"drift.png", "drift_stops.csv"}),
    ],
)
def test_other_meta_trainings_run(tmp_path, variant, number, plots):
    final = run(meta_rl, f"meta_rl.py:{variant}", tmp_path)
    assert np.isfinite(final[number])
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "plots").iterdir()}
    assert sizes.keys() == plots and min(sizes.values()) > 100
    assert (tmp_path / "drift.npz").exists() == (variant == "debug_lpo")


@pytest.mark.parametrize(
    ("name", "sentence"), [("chess", "ours are cart_pole"), ("gymnax:", "gymnax")]
)
def test_unknown_environments_are_named(name, sentence):
    with pytest.raises(UsageError, match=sentence):
        environments.make(name)


@pytest.mark.parametrize("arms", [2, 10])
def test_a_bandit_has_the_arms_of_its_name(arms):
    assert environments.make(f"bandit_{arms}").action.num_actions == arms


MODULE = """
from jaxrl.envs import cart_pole
from jaxrl.envs.cart_pole import CartPoleParams

def heavy():
    return cart_pole(CartPoleParams(pole_mass=0.5))

def broken():
    return heavy()._replace(action=2)

number = 3
"""


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "tasks_of_a_user.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "tasks_of_a_user"


def test_an_environment_of_the_user_is_made(user_module):
    assert environments.make(f"{user_module}:heavy").params.pole_mass == 0.5


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("tasks_of_a_user:light", "has no function 'light'"),
        ("tasks_of_a_user:number", "has no function 'number'"),
        ("tasks_of_a_user:broken", "action must be jaxrl.envs.Discrete or Box"),
        ("tasks_of_nobody:heavy", "no module 'tasks_of_nobody'; start the command in its folder"),
        ("tasks_of_a_user:", "module:function"),
        ("tasks/of:heavy", "module:function"),
    ],
)
def test_faults_of_a_users_environment_are_named(user_module, name, sentence):
    with pytest.raises(UsageError, match=sentence) as error:
        environments.make(name)
    assert "\n" not in str(error.value)
