"""Agreement with recorded outputs of the authors' code, see tests/golden/README.md."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtta.lpn import (
    LPN,
    Block,
    Config,
    Grid,
    Method,
    Starts,
    ascent_adam,
    clip_jointly,
    every_latent_loss,
    execute_tasks,
    from_padded,
    generate,
    gradient_ascent,
    leave_one_out,
    log_probs,
    mean_cells,
    random_search,
    run_search,
    scorer,
    search_context,
    search_task,
    start_points,
    task_loss,
    to_padded,
)
from jaxtta.lpn import loss as loss_module
from jaxtta.lpn.import_weights import from_flat, to_flat

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "lpn_reference.npz", allow_pickle=False)
SMALL = Block(num_layers=2, num_heads=2, head_dim=4, mlp_factor=2.0)
BASE = Config(max_rows=5, max_cols=5, latent_dim=3, encoder=SMALL, decoder=SMALL)
CONFIGS = {
    "base": BASE,
    "scaled": dataclasses.replace(BASE, positions="scaled"),
    "bias": dataclasses.replace(BASE, use_bias=True, activation="relu"),
    "rect": Config(3, 6, 4, Block(1, 3, 4, 1.0), Block(2, 2, 8, 1.3)),
    "plain": dataclasses.replace(
        BASE, encoder=Block(0, 2, 4, 2.0), decoder=Block(1, 1, 8, 1.0), variational=False
    ),
}
ASCENT = {
    "sgd": optax.sgd(0.5),
    "adam": ascent_adam(0.1, b1=0.9, b2=0.9),
}


def section(prefix):
    """The arrays whose names start with `prefix/`, by the rest of their names."""
    return {
        name.removeprefix(prefix + "/"): GOLDEN[name]
        for name in GOLDEN.files
        if name.startswith(prefix + "/")
    }


def model(name, **changes):
    lpn = LPN(dataclasses.replace(CONFIGS[name], **changes))
    return lpn, from_flat(lpn, section(f"params/{name}"))


def close(actual, desired, tolerance=1e-5):
    np.testing.assert_allclose(actual, desired, rtol=tolerance, atol=tolerance)


def to_grids(cells, shapes):
    """Grids of one channel from padded squares."""
    pairs = np.stack([cells, cells], axis=-1)
    return from_padded(pairs, np.stack([shapes, shapes], axis=-1)).inputs


def same_grids(grids, cells, shapes):
    np.testing.assert_array_equal(grids.shape, shapes)
    np.testing.assert_array_equal(to_padded(grids, *cells.shape[-2:]), cells)


def slow(*cases):
    return [pytest.param(case, marks=pytest.mark.ci) for case in cases]


FORWARD = ["base", "own_positions", "rect", *slow("scaled", "bias", "plain")]


@pytest.mark.parametrize("case", FORWARD)
def test_encoder_and_teacher_forced_decoder(case):
    want = section(f"forward/{case}")
    lpn, params = model("base", next_position=False) if case == "own_positions" else model(case)
    pairs = from_padded(want["pairs"], want["shapes"])

    @jax.jit
    def forward(params):
        prepared = lpn.prepare(params, pairs)
        logits = lpn.logits(params, want["latents"], prepared)
        return lpn.encode(params, pairs), logits, log_probs(logits, prepared.targets)

    posterior, logits, parts = forward(params)
    close(posterior.mean, want["mu"])
    if "logvar" in want:
        close(posterior.logvar, want["logvar"])
    else:
        assert posterior.logvar is None
    close(logits.rows, want["row_logits"])
    close(logits.cols, want["col_logits"])
    size = want["pairs"].shape[-3:-1]
    cells = [to_padded(Grid(logits.cells[..., c], pairs.outputs.shape), *size) for c in range(10)]
    close(np.stack(cells, axis=-1), want["cell_logits"])
    close(-parts.rows, want["row_loss"])
    close(-parts.cols, want["col_loss"])
    close(-mean_cells(parts), want["cell_loss"])
    close(parts.rows + parts.cols + mean_cells(parts), want["scores"])


def losses(lpn, want, context, no_encoder=False, loss=task_loss):
    """Mean over tasks of loss and metrics, and the gradient as one vector in path order."""
    pairs = from_padded(want["pairs"], want["shapes"])
    beta, gamma = want["settings"]
    num_tasks, num_pairs = want["pairs"].shape[:2]
    noise = want.get("eps", np.zeros((num_tasks, num_pairs, lpn.config.latent_dim), np.float32))

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def mean_loss(params):
        def one_task(index, pairs, noise):
            chosen = None if context is None else context(params, index, pairs)
            return loss(
                lpn,
                params,
                pairs,
                jax.random.key(0),
                **({} if chosen is None else {"context": chosen}),
                beta=beta,
                gamma=gamma,
                no_encoder=no_encoder,
                noise=noise,
            )

        outcome = jax.vmap(one_task)(jnp.arange(num_tasks), pairs, noise)
        return jax.tree.map(lambda x: x.mean(0), outcome)

    return mean_loss


def check_losses(lpn, params, want, context=None, **options):
    (loss, metrics), grads = losses(lpn, want, context, **options)(params)
    close(loss, want["loss"])
    close(metrics["reconstruction"], want["total_loss"])
    for name in ("row_loss", "col_loss", "cell_loss"):
        close(metrics[name], want[name])
    if "kl" in want:
        close(metrics["prior_kl"], want["kl"])
    for ours, theirs in {
        "latent_norm": "latents_norm",
        "context_norm": "context_norm",
        "latent_distance": "distance_between_latents",
        "latent_cosine": "cosine_between_latents",
        "context_distance": "distance_between_contexts",
        "context_cosine": "cosine_between_contexts",
    }.items():
        close(metrics[ours], want[f"metrics/{theirs}"], 1e-4)
    if "grads" in want:
        flat = to_flat(grads)
        grads = np.concatenate([np.ravel(flat[name]) for name in sorted(flat)])
        np.testing.assert_allclose(grads, want["grads"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case, name", [("mean", "base"), ("mean_plain", "plain")])
def test_training_loss_and_gradient(case, name):
    check_losses(*model(name), section(f"train/{case}"))


@pytest.mark.parametrize("case, name", [("mean_pairwise", "base"), ("mean_rect", "rect")])
@pytest.mark.ci
def test_training_loss_and_gradient_of_other_models(case, name):
    check_losses(*model(name), section(f"train/{case}"))


@pytest.mark.ci
def test_training_with_every_other_latent():
    check_losses(*model("base"), section("train/all"), loss=every_latent_loss)


def left_out(others, pairs):
    """Place in `pairs` of the pair that `others` lacks; all pairs of a task must differ."""
    same = [
        (x[:, None] == y[None]).reshape(x.shape[0], y.shape[0], -1).all(-1)
        for x, y in zip(jax.tree.leaves(others.pairs), jax.tree.leaves(pairs), strict=True)
    ]
    return jnp.argmin(functools.reduce(jnp.logical_and, same).any(0))


def sampled_contexts(want, include_all_latents):
    """Training mode `random_search` with the recorded noise."""
    noise = jnp.asarray(want["search_noise"])

    def context(params, task, pairs):
        def best(others, score_fn, key):
            chosen = Starts(include_all_latents=include_all_latents)
            starts, mask = start_points(others.latents, others.pairs.mask, starts=chosen)
            draws = noise[task, left_out(others, pairs)]
            points = (starts[:, None] + 0.5 * draws).reshape(-1, starts.shape[-1])[:5]
            search = random_search(score_fn, num_samples=0, scale=0.5)
            return run_search(search, key, jnp.concatenate([starts, points]), 0).best_latents[0]

        return best

    return context


@pytest.mark.ci
@pytest.mark.parametrize("case", ["random_search", "random_search_all_starts"])
def test_training_with_random_search(case):
    want = section(f"train/{case}")
    check_losses(*model("base"), want, sampled_contexts(want, case.endswith("all_starts")))


@pytest.mark.ci
def test_training_without_encoder(monkeypatch):
    want = section("train/mean_no_encoder")
    noise = jnp.asarray(want["start_noise"])

    def inject(params, task, pairs):
        monkeypatch.setattr(loss_module, "pair_noise", lambda key, shape: noise[task])

    check_losses(*model("base"), want, inject, no_encoder=True)


@pytest.mark.ci
@pytest.mark.parametrize("move", ["stop", "full"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_training_with_gradient_ascent(optimizer, move):
    make_search = functools.partial(
        gradient_ascent,
        optimizer=ASCENT[optimizer],
        stop_gradient_latent_move=move == "stop",
    )
    context = search_context(make_search, 2)
    want = section(f"train/ascent_unclipped_{optimizer}_{move}")
    check_losses(*model("base"), want, lambda params, task, pairs: context)


@pytest.mark.ci
def test_training_with_gradient_ascent_on_one_task_of_two_pairs():
    context = search_context(functools.partial(gradient_ascent, optimizer=ASCENT["adam"]), 2)
    want = section("train/ascent_one_task_adam_stop")
    check_losses(*model("base"), want, lambda params, task, pairs: context)


@pytest.mark.ci
@pytest.mark.parametrize("move", ["stop", "full"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_training_with_joint_clipping(optimizer, move):
    # The authors clip over tasks and left-out pairs together; both axes need names for that.
    want = section(f"train/ascent_clipped_{optimizer}_{move}")
    lpn, params = model("base")
    num_pairs = want["pairs"].shape[1]
    all_pairs = from_padded(want["pairs"], want["shapes"])
    make_search = functools.partial(
        gradient_ascent,
        optimizer=ASCENT[optimizer],
        stop_gradient_latent_move=move == "stop",
        clip=functools.partial(clip_jointly, axis_name=("tasks", "left_out")),
    )

    def contexts(params):
        posterior = lpn.encode(params, all_pairs)
        latents = posterior.mean + jnp.exp(posterior.logvar / 2) * want["eps"]
        index = leave_one_out(num_pairs)

        def row(latents, pairs):
            search = make_search(scorer(lpn, params, pairs))
            return run_search(search, jax.random.key(0), latents.mean(0)[None], 2)

        rows = jax.vmap(row, axis_name="left_out")
        tasks = jax.vmap(rows, axis_name="tasks")
        return tasks(latents[:, index], jax.tree.map(lambda x: x[:, index], all_pairs))

    if move == "stop":  # The search itself is the same in both.
        result = jax.jit(contexts)(params)
        close(result.latents[..., 0, :], want["candidates"], 1e-4)
        close(result.scores[..., 0], want["scores"], 1e-4)

    def context(params, task, pairs):
        best = contexts(params).best_latents[:, :, 0]
        return lambda others, score_fn, key: best[task, left_out(others, pairs)]

    check_losses(lpn, params, want, context)


def searched(name, length, optimizer, *, together=False):
    """Ascent on the recorded demonstrations from the mean latent or all start points."""
    want = section("search")
    lpn, params = model("base")
    demos = from_padded(want["pairs"], want["shapes"])
    starts = jnp.asarray(want["latents"]).mean(1, keepdims=True)
    if name.endswith("starts"):
        noise = jnp.asarray(want["perturbation_noise"])
        starts = jnp.concatenate([starts, want["latents"], starts + 0.1 * noise], axis=1)
    options = {"clip": functools.partial(clip_jointly, axis_name="tasks")} if together else {}

    def one_task(demos, starts):
        search = gradient_ascent(scorer(lpn, params, demos), optimizer, **options)
        return run_search(search, jax.random.key(0), starts, length)

    result = jax.jit(jax.vmap(one_task, axis_name="tasks"))(demos, starts)
    recorded = section(f"search/{name}_{'batch' if together else 'each'}")
    shape = (3, -1, length + 1)
    close(jnp.swapaxes(result.latents, 1, 2), recorded["latents"].reshape(*shape, 3), 1e-4)
    close(jnp.swapaxes(result.scores, 1, 2), recorded["scores"].reshape(shape), 1e-4)
    close(result.best_latents[:, 0], recorded["best"], 1e-4)
    close(result.best_latents[:, 1], recorded["second"], 1e-4)


ADAM, SGD = ascent_adam(0.1), optax.sgd(0.1)


def test_ascent_of_each_task_by_itself():
    searched("adam", 5, ADAM)


@pytest.mark.ci
def test_ascent_with_sgd_and_with_a_schedule():
    searched("sgd", 5, SGD)
    schedule = optax.cosine_decay_schedule(1.0, 5, exponent=0.5)
    searched("adam_cosine", 5, ascent_adam(schedule))


@pytest.mark.ci
@pytest.mark.parametrize("name, optimizer", [("adam", ADAM), ("sgd", SGD)])
def test_ascent_from_several_starts(name, optimizer):
    searched(f"{name}_starts", 3, optimizer)
    searched(f"{name}_starts", 3, optimizer, together=True)


@pytest.mark.ci
@pytest.mark.parametrize("name, optimizer", [("adam", ADAM), ("sgd", SGD)])
def test_ascent_of_a_batch_with_joint_clipping(name, optimizer):
    searched(name, 5, optimizer, together=True)


@pytest.fixture
def inject_normal(monkeypatch):
    """Replaces normal draws of one shape; others (initialisers) stay as they are."""
    real = jax.random.normal

    def inject(noise):
        def normal(key, shape=(), dtype=jnp.float32):
            return jnp.asarray(noise) if tuple(shape) == noise.shape else real(key, shape, dtype)

        monkeypatch.setattr(jax.random, "normal", normal)

    return inject


def test_random_search(inject_normal):
    want = section("search")
    lpn, params = model("base")

    def one_task(demos, samples, noise):
        inject_normal(noise.reshape(-1, 3)[:7])
        search = random_search(scorer(lpn, params, demos), num_samples=7, scale=0.5)
        starts, _ = start_points(samples, demos.mask, starts=Starts(include_all_latents=True))
        return run_search(search, jax.random.key(0), starts, 0)

    demos = from_padded(want["pairs"], want["shapes"])
    result = jax.jit(jax.vmap(one_task))(demos, want["latents"], want["random_noise"])
    close(result.latents[:, 0], want["random/latents"])
    close(result.scores[:, 0], want["random/scores"])
    close(result.best_latents[:, 0], want["random/best"])
    close(result.best_latents[:, 1], want["random/second"])


@pytest.mark.parametrize("case", ["base", "rect", *slow("own_positions", "scaled", "bias")])
def test_generated_grids(case):
    want = section(f"generate/{case}")
    lpn, params = model("base", next_position=False) if case == "own_positions" else model(case)
    inputs = to_grids(want["inputs"], want["input_shapes"])
    grids = jax.jit(lambda params, z: generate(lpn, params, z, inputs))(params, want["latents"])
    same_grids(grids, want["outputs"], want["output_shapes"])


@pytest.mark.ci
@pytest.mark.parametrize("case", ["mean", "random_search", "ascent_one_task"])
def test_attempts_from_demonstrations(case, inject_normal):
    want = section(f"solve/{case}")
    lpn, params = model("base")
    make_search, num_steps = {
        "mean": (functools.partial(random_search, num_samples=0, scale=0.0), 0),
        "random_search": (functools.partial(random_search, num_samples=6, scale=1.0), 0),
        "ascent_one_task": (functools.partial(gradient_ascent, optimizer=ASCENT["sgd"]), 4),
    }[case]
    method = Method(make_search, num_steps=num_steps)

    def one_task(demos, eps, noise):
        if noise is not None:
            inject_normal(noise[0])
        posterior = lpn.encode(params, demos)
        latents = posterior.mean + jnp.exp(posterior.logvar / 2) * eps
        key = jax.random.key(0)
        return search_task(lpn, params, key, demos, method, latents=latents).best_latents

    @jax.jit
    def solve(demos, inputs, eps, noise):
        latents = jax.vmap(one_task)(demos, eps, noise)
        return latents, execute_tasks(
            lpn, params, latents, jax.tree.map(lambda x: x[:, None], inputs)
        )

    demos = from_padded(want["pairs"], want["shapes"])
    inputs = to_grids(want["inputs"], want["input_shapes"])
    latents, attempts = solve(demos, inputs, want["eps"], want.get("search_noise"))
    close(latents[:, 0], want["context"], 1e-4)
    for attempt, name in enumerate(["first", "second"]):
        grids = jax.tree.map(lambda x: x[:, 0, attempt], attempts)  # noqa: B023
        same_grids(grids, want[name], want[f"{name}_shapes"])


@pytest.mark.parametrize("name", CONFIGS)
def test_export_is_the_inverse_of_import(name):
    flat = section(f"params/{name}")
    back = to_flat(from_flat(CONFIGS[name], flat))
    assert set(back) == set(flat)
    assert all(np.array_equal(back[leaf], flat[leaf]) for leaf in flat)


def test_import_drops_the_device_axis():
    flat = section("params/base")
    copies = {leaf: np.stack([x] * 4) for leaf, x in flat.items()}
    back = to_flat(from_flat(BASE, copies))
    assert all(np.array_equal(back[leaf], flat[leaf]) for leaf in flat)

    copies["encoder/cls_token/embedding"][2] += 1
    with pytest.raises(ValueError, match="encoder/cls_token/embedding .* not copies"):
        from_flat(BASE, copies)


def test_import_lists_all_faults_at_once():
    flat = section("params/base")
    del flat["encoder/cls_token/embedding"]
    flat["decoder/context_embed/kernel"] = np.zeros((4, 8), np.float32)
    flat["encoder/Dense_0/kernel"] = flat["encoder/Dense_0/kernel"].astype(np.int8)
    flat["decoder/extra/kernel"] = np.zeros((2,), np.float32)
    with pytest.raises(ValueError) as error:
        from_flat(BASE, flat)
    for fault in (
        "encoder/cls_token/embedding: missing, expected shape (1, 8)",
        "decoder/context_embed/kernel: found shape (4, 8), expected (3, 8)",
        "encoder/Dense_0/kernel: found type int8",
        "decoder/extra/kernel: unknown, found shape (2,)",
    ):
        assert fault in str(error.value)
