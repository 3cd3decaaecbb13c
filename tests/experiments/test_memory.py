"""The memory from the command line."""

import json

import jax
import numpy as np
import pytest

from experiments import memory
from jaxtrain.host.config import load
from jaxtta.sparsey import Sizes

DEBUG = "--config=configs/memory.py:debug"


def run(workdir, *flags, config=DEBUG):
    memory.main(argv=[config, f"--workdir={workdir}", *flags])
    return json.loads((workdir / "summary.json").read_text())["final"]


def test_a_sweep_ends_with_what_is_known_and_a_figure(tmp_path, capsys):
    final = run(tmp_path, "--sweep=seed=0:2;memory.chi=0,100")
    assert set(final) == {*memory.SHOWN, *memory.FAMILIAR}
    values = {name: np.array(x["trials"]) for name, x in final.items()}
    assert all(x.shape == (4,) for x in values.values())
    assert (values["familiarity_stored"] > values["familiarity_novel"]).all()
    assert (values["nearest_accuracy"][::2] == values["nearest_accuracy"][1::2]).all()
    assert "chi=100" in capsys.readouterr().out
    assert (tmp_path / "plots" / "memory.png").stat().st_size > 1000


@pytest.mark.ci
def test_strokes_are_seen_through_windows(tmp_path):
    final = run(tmp_path, config="--config=configs/memory.py:strokes_debug")
    assert final["self_retrieval"] > 0.5 and 0 < final["fill"] < 1


def test_the_nearest_item_is_not_the_one_with_most_points():
    stored = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    new = np.array([[1, 1, 0, 0, 0], [0, 1, 1, 1, 1]])
    assert memory.nearest_of(stored, new).tolist() == [1, 0]


def test_items_are_chosen_once_each():
    rows = np.asarray(memory.chosen(3, 50, 20))
    assert len({*rows.tolist()}) == 20 and rows.max() < 50
    traced = jax.jit(memory.chosen, static_argnums=(1, 2))(3, 50, 20)
    np.testing.assert_array_equal(traced, rows)


def test_the_items_of_a_batch_come_after_those_of_the_last():
    config, _ = load("configs/memory.py:debug")
    rng = np.random.default_rng(0)
    inputs, labels = rng.random((40, 6)) < 0.1, rng.integers(0, 3, 40)
    sizes = Sizes(3, 4, np.arange(6)[None], 3)
    core = memory.build_core(config, sizes, 40)
    state, update = core.init(jax.random.key(0)), jax.jit(core.update)
    for i in range(2):
        state, _ = update(state, (inputs, labels, np.arange(8)), jax.random.key(i))
    rows = np.asarray(memory.chosen(config.seed, 40, 16))
    np.testing.assert_array_equal(state.winners[:, 0, 0] >= 0, inputs[rows].any(1))
    written = {*labels[rows[inputs[rows].any(1)]].tolist()}
    assert {*np.flatnonzero(np.asarray(state.memory.labels).any((0, 1, 2))).tolist()} == written
    np.testing.assert_array_equal(state.memory.up.max((0, 2, 3)), inputs[rows].any(0))


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--config.batch_size=2000"], "2000 x num_steps=2 are 4000 items"),
        (["--config.front.num_active=40"], "more than front.num_units=32"),
        (["--config.front.side=4"], "would have no effect"),
        (["--config.front.kind=strokes", "--config.front.side=20"], "larger than the image"),
        (["--config.data.name=nothing.npz"], "nothing.npz"),
        (["--config.memory.freeze=0"], "above 0"),
        (["--config.memory.band=(0.5,0.1)"], "smaller share first"),
    ],
)
def test_impossible_settings_are_named(tmp_path, capsys, flags, sentence):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "w", *flags)
    assert stop.value.code == 2 and sentence in capsys.readouterr().err
    assert not (tmp_path / "w").exists()
