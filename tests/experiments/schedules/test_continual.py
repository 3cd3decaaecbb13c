"""Numbers of the stream of tasks by loops, and where a task begins."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from experiments.schedules import continual
from jaxtrain.host.config import load

SPEC = "configs/lr_schedules.py:continual_debug,continual.hidden=2,continual.code=1,batch_size=2"


def test_numbers_by_loops_over_kinds_and_borders(monkeypatch, tmp_path):
    monkeypatch.setattr(continual, "draw", lambda *given: None)
    config, _ = load(f"{SPEC},continual.num_tasks=3,continual.peaks=(0.001, 0.01)")
    kinds = continual.kinds(config)
    values = np.random.default_rng(0).uniform(size=(30, len(kinds), 2, 2, 3))
    found = continual.results(
        config, [kind.name for kind in kinds], np.arange(1, 31), values,
        SimpleNamespace(workdir=tmp_path),
    )  # fmt: skip
    at = lambda step, k, peak: values[step - 1, k, peak]  # [seeds, tasks]
    anneal = round(config.continual.anneal * 10)
    for k, kind in enumerate(kinds):
        best = int(np.argmin([values[-1, k, peak].mean() for peak in range(2)]))
        back = anneal if kind.infinite and kind.restores else 0
        rises, uses, anneals = [], [], []
        for border in (1, 2):
            soon = at(10 * border + 1, k, best)
            rises.append((soon - at(10 * border - back, k, best))[:, :border].mean(1))
            uses.append((soon - at(10 * border, k, best))[:, :border].mean(1))
        for end in (1, 2, 3):
            change = at(10 * end, k, best) - at(10 * end - anneal, k, best)
            anneals.append(change[:, :end].mean(1))
        expected = {
            "final": at(30, k, best).mean(1),
            "forgetting": np.mean(rises, 0),
            "loss_of_use": np.mean(uses, 0),
            "annealing": np.mean(anneals, 0),
        }
        for name, numbers in expected.items():
            np.testing.assert_allclose(found[f"{name}/{kind.name}"], numbers, rtol=1e-9)
        for peak, rate in enumerate((0.001, 0.01)):
            changes = [at(30, k, peak)[:, i] - at(10 * (i + 1), k, peak)[:, i] for i in (0, 1)]
            lasting = found[f"lasting/{kind.name}/{rate:g}"]
            np.testing.assert_allclose(lasting, np.mean(changes, 0), rtol=1e-9)


def test_a_new_task_goes_on_from_the_state_before_the_annealing():
    config, _ = load(SPEC)
    build = continual.stream_core(config, jax.random.key(9))
    core = lambda kind: build({"kind": kind, "peak": jnp.float32(0.01)})
    init = jax.jit(core(0).init)
    old, new = init(jax.random.key(0)).inner, init(jax.random.key(1)).inner
    update = jax.jit(lambda kind, state: core(kind).update(state, jnp.arange(2), init_key)[0].inner)
    init_key = jax.random.key(2)

    def begun(kind, inner, saved):
        count = jnp.int32(config.continual.task_steps)
        return jax.tree.leaves(update(kind, continual.Restorable(inner, saved, count)).params)

    for kind, one in enumerate(continual.kinds(config)):
        starts_from_saved = one.infinite and one.restores
        expected = begun(kind, old, old) if starts_from_saved else begun(kind, new, new)
        for a, b in zip(begun(kind, new, old), expected, strict=True):
            np.testing.assert_array_equal(a, b)
