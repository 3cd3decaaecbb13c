"""Training cores as configs describe them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.lpn.searches import SEARCHES, build_method, build_starts
from experiments.lpn.settings import build_core, build_loss, build_model
from experiments.lpn_patterns import sampler
from jaxtrain.host.config import UsageError, load
from jaxtta.lpn import from_padded
from jaxtta.lpn.search import Scored, run_search
from tests.jaxtta.lpn.test_reference import close, model, section

KEY = jax.random.key(0)
TINY = (
    "configs/lpn_patterns.py:debug,batch_size=4,data.num_pairs=3,train.mode=gradient_ascent,"
    "train.search.gradient_ascent.optimizer=sgd,train.search.gradient_ascent.learning_rate=5.0,"
    "train.search.gradient_ascent.clip_norm=0.1,train.search.gradient_ascent.clip_scope="
)


@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_of_the_table_climbs(name):
    config, _ = load("configs/lpn_patterns.py:debug")
    group = config.evaluation.search
    group.num_steps = 30
    method = build_method(group, name)
    samples = name in ("random_search", "encoder_sampling")  # scored at once
    assert method.num_steps == (0 if samples else 30)

    def score(latents):
        value = -((latents - 1.0) ** 2).sum(-1)
        return Scored(value, value > -1e-6)

    posterior = {}
    if method.uses_posterior:
        posterior = dict(mean=jnp.zeros((2, 3)), logvar=jnp.zeros((2, 3)), mask=jnp.ones(2, bool))
    search = method.make_search(score, archive_size=2, **posterior)
    found = jax.jit(run_search, static_argnums=(0, 3))(
        search, KEY, jnp.zeros((1, 3)), method.num_steps
    )
    assert found.best_scores[0] > -1.5  # from -3 at the start
    np.testing.assert_allclose(score(found.best_latents).score, found.best_scores, atol=1e-5)


@pytest.mark.parametrize(("number", "expected"), [(0, None), (2, (2, 0.25))])
def test_a_search_starts_from_as_many_perturbations_as_the_config_says(number, expected):
    group = load("configs/lpn_patterns.py:debug")[0].evaluation.search
    group.perturbations, group.perturbation_scale = number, 0.25
    assert build_starts(group).random_perturbation == expected


@pytest.mark.parametrize(
    ("spec", "platform", "expected"),
    [
        ("paper", "gpu", "cudnn"),
        ("paper", "tpu", "xla"),
        ("paper", "cpu", None),
        ("paper,model.fused=none", "gpu", None),
        ("paper,model.fused=xla", "cpu", "xla"),
        ("paper,model.encoder.head_dim=12", "gpu", "xla"),
        ("paper_stage_2", "gpu", "xla"),  # differentiated twice
        ("small", "gpu", None),
    ],
)
def test_fused_attention_is_chosen_by_platform(spec, platform, expected, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    config, _ = load(f"configs/lpn_arc.py:{spec}")
    assert build_model(config).config.fused == expected


def test_attention_that_cannot_be_differentiated_twice_is_refused():
    config, _ = load("configs/lpn_arc.py:paper_stage_2,model.fused=cudnn")
    with pytest.raises(UsageError, match="fused='cudnn' cannot be differentiated twice"):
        build_model(config)


def test_the_paper_computes_in_bfloat16_and_keeps_nothing_it_can_compute_again():
    for variant in ("paper", "paper_stage_2"):
        model = build_model(load(f"configs/lpn_arc.py:{variant}")[0]).config
        assert (model.dtype, model.remat) == ("bfloat16", True)


@pytest.mark.ci
@pytest.mark.parametrize("scope", ["latent", "batch"])
def test_a_batch_split_over_devices_is_searched_like_the_whole(scope):
    config, _ = load(TINY + scope)
    lpn = build_model(config)
    batch = sampler(config)(KEY, jnp.arange(4))
    state = jax.jit(build_core(config, lpn).init)(KEY)

    def metrics(axis_name, shards):
        update = build_core(config, lpn, axis_name=axis_name).update
        split = jax.tree.map(lambda x: x.reshape(shards, -1, *x.shape[1:]), batch)
        mapped = jax.vmap(update, (None, 0, None), axis_name="data")
        return jax.tree.map(lambda x: np.mean(x), jax.jit(mapped)(state, split, KEY)[1].metrics)

    whole, together, apart = metrics(None, 1), metrics("data", 2), metrics(None, 2)
    for name in ("loss", "context_norm", "context_latent_distance"):
        np.testing.assert_allclose(together[name], whole[name], rtol=1e-5)
    # Control: joint clipping notices what else is in the batch, clipping per latent does not.
    moved = abs(apart["context_latent_distance"] / whole["context_latent_distance"] - 1)
    assert moved > 1e-3 if scope == "batch" else moved < 1e-5


@pytest.mark.ci
@pytest.mark.parametrize("move", ["stop", "full"])
def test_joint_clipping_of_a_config_is_that_of_the_authors(move):
    want = section(f"train/ascent_clipped_adam_{move}")
    lpn, params = model("base")
    beta, gamma = (float(x) for x in want["settings"])
    config, _ = load(
        f"configs/lpn_patterns.py:debug,train.mode=gradient_ascent,train.beta={beta!r},"
        f"train.gamma={gamma!r},train.search.num_steps=2,"
        "train.search.gradient_ascent.clip_scope=batch,"
        f"train.search.gradient_ascent.stop_gradient_latent_move={move == 'stop'}"
    )
    loss = build_loss(config, lpn)
    assert isinstance(loss, functools.partial)

    def one_task(pairs, noise):
        return loss(params, pairs, KEY, noise=noise)[0]

    pairs = from_padded(want["pairs"], want["shapes"])
    found = jax.jit(jax.vmap(one_task, axis_name="tasks"))(pairs, want["eps"])
    close(found.mean(), want["loss"])
