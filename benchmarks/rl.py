"""Speed of reinforcement learning and of evolving its rules: ratios in one run.

python -m benchmarks.rl ppo
python -m benchmarks.rl sac --updates 500 --seeds 1 8
python -m benchmarks.rl recurrent
python -m benchmarks.rl lives
XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m benchmarks.rl evolution

ppo: PPO on CartPole (4 environments x 128 steps, 4 epochs of 4 mini-batches) against the single-
file compiled PPO in `plain_ppo.py`, for several seeds in one program. Both learn the same thing
with different random bits; the mean return of both is printed and must agree. Repetitions
alternate, and the median of the ratios is given.

sac, recurrent: the same for soft actor-critic on a pendulum (4 environments, 4 gradient steps on 64
rows a step) and `plain_sac.py`, and for PPO with a GRU (32 environments x 40 steps) and
`plain_recurrent_ppo.py`; steps per second of CPU time.

lives: one generation of TA-LPG with lifetimes from 5 to 60 updates, in one and in several buckets
of lifetimes, in turns. Lives differ by rounding, which now and then changes an action that is
sampled: the share of equal fitness is printed, as are the updates computed for one needed. About 3
minutes of CPU time, nearly all of it compilation.

evolution: a generation on 200,000 parameters against the number of pairs, on one and on all
devices. Simulated devices share the cores, so this shows overhead, not gain.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import plain_ppo, plain_recurrent_ppo, plain_sac, timing
from jaxrl.actor_critic import ppo
from jaxrl.envs import (
    FAMILIES,
    cart_pole,
    grid_world,
    pendulum,
    recall,
    sample_level,
    sample_lifetime,
)
from jaxrl.memory_networks import CELLS, agent, recurrent
from jaxrl.memory_ppo import memory_ppo
from jaxrl.meta import lifetime
from jaxrl.meta.evolution import decaying_adam, each, evolution
from jaxrl.meta.learned_objective import fitness_of_lives, updates_run
from jaxrl.meta.learned_rule import recurrent_rule
from jaxrl.networks import mlp
from jaxrl.soft_actor_critic import soft_actor_critic, soft_mlp
from jaxtrain import parallel
from jaxtrain.core import Core
from jaxtrain.optimizers import adam, sgd


class Pair(NamedTuple):
    """One of our learners beside a plain file of the same maths.

    Attributes:
      what: is learned.
      core: makes ours.
      plain: `num_updates -> train`, `train(key) -> mean return after each update`.
      workers: environments.
      steps: of each of them in an update.
      clock: whose seconds count, `wall` or `cpu`.
      window: last updates whose mean return is compared.
    """

    what: str
    core: Callable[[], Core]
    plain: Callable[[int], Callable[[Any], Any]]
    workers: int
    steps: int
    clock: str
    window: int


def our_ppo() -> Core:
    env = cart_pole()
    rate = optax.linear_schedule(2.5e-4, 0.0, 976 * 16)
    return ppo(env, mlp(env.action), adam(rate, max_norm=0.5, eps=1e-5))


def our_sac() -> Core:
    env = pendulum()
    return soft_actor_critic(
        env,
        soft_mlp(env.action, plain_sac.WIDTHS),
        adam(plain_sac.RATE),
        num_workers=plain_sac.ENVS,
        num_updates=plain_sac.GRADIENT_STEPS,
        batch_size=plain_sac.BATCH,
        capacity=plain_sac.CAPACITY,
        random_steps=plain_sac.RANDOM,
        gamma=plain_sac.GAMMA,
        tau=plain_sac.TAU,
    )


def our_recurrent_ppo() -> Core:
    plain, env = plain_recurrent_ppo, recall(plain_recurrent_ppo.CUES, 8)
    return memory_ppo(
        env,
        agent(env.action, recurrent(CELLS["gru"](plain.WIDTH)), (plain.WIDTH,)),
        adam(plain.RATE, max_norm=0.5, eps=1e-5),
        num_workers=plain.ENVS,
        num_steps=plain.STEPS,
        num_epochs=plain.EPOCHS,
        num_minibatches=plain.MINIBATCHES,
        gamma=plain.GAMMA,
        lambda_=plain.LAMBDA,
    )


PAIRS = {
    "ppo": Pair(
        "PPO on CartPole", our_ppo, plain_ppo.make_train, plain_ppo.ENVS, plain_ppo.STEPS, "wall", 5
    ),
    "sac": Pair("SAC on a pendulum", our_sac, plain_sac.make_train, plain_sac.ENVS, 1, "cpu", 250),
    "recurrent": Pair(
        "recurrent PPO on recall",
        our_recurrent_ppo,
        plain_recurrent_ppo.make_train,
        plain_recurrent_ppo.ENVS,
        plain_recurrent_ppo.STEPS,
        "cpu",
        5,
    ),
}


def ours(pair: Pair, num_updates: int) -> Callable[[Any], Any]:
    """`train(key) -> mean return after each update`, with `jaxrl`."""
    core, workers = pair.core(), jnp.arange(pair.workers)

    def train(key: Any) -> Any:
        key_init, key_run = jax.random.split(key)

        def one(state: Any, i: Any) -> Any:
            state, out = core.update(state, workers, jax.random.fold_in(key_run, i))
            return state, out.metrics["episode_return"]

        return jax.lax.scan(one, core.init(key_init), jnp.arange(num_updates))[1]

    return train


def seconds(function, *args) -> tuple[timing.Spent, np.ndarray]:
    spent, result = timing.timed(function, *args, warm=False)
    return spent, np.asarray(result)


def compare_learners(pair: Pair, num_seeds: int, num_updates: int, repetitions: int) -> None:
    keys = jax.random.split(jax.random.key(0), num_seeds)
    functions = [ours(pair, num_updates), pair.plain(num_updates)]
    compiled = [jax.jit(jax.vmap(f)).lower(keys).compile() for f in functions]
    for f in compiled:
        seconds(f, keys)
    times, results = np.zeros((repetitions, 2)), [np.zeros(0)] * 2
    for r in range(repetitions):
        for i in (0, 1) if r % 2 else (1, 0):
            spent, results[i] = seconds(compiled[i], keys)
            times[r, i] = getattr(spent, pair.clock)
    steps = num_seeds * num_updates * pair.workers * pair.steps
    last = [np.nanmean(result[:, -pair.window :]) for result in results]
    fast = np.median(times, 0)
    print(
        f"{num_seeds:>3} seeds   ours {steps / fast[0]:>10,.0f}   plain {steps / fast[1]:>10,.0f} "
        f"steps/s ({pair.clock})   ratio {np.median(times[:, 1] / times[:, 0]):.2f}   "
        f"return ours {last[0]:.2f}, plain {last[1]:.2f}"
    )
    if num_seeds >= 8 and not 0.5 < last[0] / last[1] < 2:
        raise SystemExit("the two programs do not learn the same thing")


def compare_buckets(num_pairs: int, repetitions: int) -> None:
    family = FAMILIES["small"]._replace(lifetime=(5, 60))
    rule = recurrent_rule(temporal=True, width=32)
    body = lifetime.tabular(family.shape.num_states)
    optimizers = lifetime.Optimizers(sgd(40.0, max_norm=0.5), sgd(4.0, max_norm=0.5))
    setting = lifetime.Setting(grid_world(family.shape), rule, body, optimizers, num_workers=8)

    def life(key):
        key_level, key_length = jax.random.split(key)
        return sample_level(family, key_level), sample_lifetime(family, key_length)

    steps: dict[int, Callable[[], tuple[timing.Spent, np.ndarray]]] = {}
    for buckets in (1, 2, 4, 8):
        evaluate = fitness_of_lives(
            setting, life, max_steps=100, num_episodes=8, num_buckets=buckets
        )
        core = evolution(rule.init, evaluate, decaying_adam(1e-2), num_pairs=num_pairs)
        state = jax.jit(core.init)(jax.random.key(0))
        step = jax.jit(lambda s, i, k, core=core: core.update(s, i, k)[1].outputs)
        steps[buckets] = functools.partial(
            seconds, step, state, jnp.arange(num_pairs), jax.random.key(1)
        )
        print(f"{buckets:>3} buckets: compiled and run once in {steps[buckets]()[0]}")
    rounds = [{b: step() for b, step in steps.items()} for _ in range(repetitions)]
    lengths = jax.vmap(lambda k: life(k)[1])(jax.random.split(jax.random.key(2), num_pairs))
    print(f"one generation of TA-LPG, {num_pairs} pairs, lifetimes 5 to 60 updates")
    for buckets in steps:
        spent = timing.Spent(*np.median([r[buckets][0] for r in rounds], axis=0))
        ratio = np.median([r[1][0].wall / r[buckets][0].wall for r in rounds])
        same = np.isclose(rounds[0][buckets][1], rounds[0][1][1], rtol=1e-3, atol=1e-3).mean()
        computed = updates_run(lengths, buckets) / lengths.sum()
        print(
            f"{buckets:>3} buckets {spent}   ratio {ratio:.2f}   "
            f"updates computed / needed {computed:.2f}   equal fitness {100 * same:.0f} %"
        )


def compare_devices(sizes: list[int], repetitions: int) -> None:
    """The fitness costs nothing, so this is the cost of noise, candidates and the update."""
    target = jnp.linspace(-1, 1, 200_000)
    fitness = each(lambda p, task, run: -jnp.sum((p - target) ** 2), batch_size=8)
    print(f"one generation on {target.size:,} parameters, {jax.device_count()} devices")
    for num_pairs in sizes:
        row = {}
        for mode, count in (("jit", 1), ("shard_map", jax.device_count())):
            mesh = parallel.make_mesh({"data": count})
            core = evolution(
                lambda key: jnp.zeros(target.size),
                fitness,
                optax.sgd(1e-2),  # Adam would make rounding of a gradient near 0 a whole step
                num_pairs=num_pairs,
                axis_name=parallel.Execution(mode, mesh).axis_name,
            )
            step = parallel.compile_update(core.update, mode=mode, mesh=mesh, donate=False)
            state = core.init(jax.random.key(0))
            call = lambda step=step, state=state, n=num_pairs: (
                step(state, np.arange(n, dtype=np.int32), jax.random.key(1))[0].params
            )
            seconds(call)
            runs = [seconds(call) for _ in range(repetitions)]
            row[count] = (np.median([spent.wall for spent, _ in runs]), runs[0][1])
        one, many = row[1], row[jax.device_count()]
        np.testing.assert_allclose(one[1], many[1], rtol=1e-3, atol=1e-5)
        print(
            f"{num_pairs:>5} pairs   1 device {one[0]:.3f} s   all {many[0]:.3f} s   "
            f"ratio {one[0] / many[0]:.2f}"
        )


@timing.told()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=(*PAIRS, "lives", "evolution"))
    parser.add_argument("--pairs", type=int, nargs="+", default=[32])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--updates", type=int, default=12)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    if options.part == "lives":
        return compare_buckets(options.pairs[0], options.repetitions)
    if options.part == "evolution":
        return compare_devices(options.pairs, options.repetitions)
    pair = PAIRS[options.part]
    print(f"{pair.what}, {options.updates} updates of {pair.workers} x {pair.steps} steps")
    for num_seeds in options.seeds:
        compare_learners(pair, num_seeds, options.updates, options.repetitions)


if __name__ == "__main__":
    main()
