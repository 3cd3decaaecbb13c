"""Learners of language models, from texts, preferences, labels and rewards."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrl.lm import learners, preferences, sharpening
from jaxrl.lm.policy_gradient import Divergence
from jaxrl.lm.policy_gradient import policy_gradient as learn_from_reward
from jaxrl.lm.ppo import ppo as learn_with_critic
from jaxrl.lm.tasks import tables
from jaxrl.lm.tasks.chained import chained
from jaxrl.lm.tasks.symbols import ALPHABET
from jaxrl.lm.turns import said
from jaxtrain.lm.decoder import Config, decoder
from jaxtrain.lm.logits import Options
from tests.contract.row import BATCH_SIZE, Row, places
from tests.jaxrl.lm.letters import LETTERS

MODEL = decoder(Config(len(ALPHABET), 8, 1, 1, 1, 8, 8))
SLOTS = 6


@functools.cache
def parameters() -> Any:
    return jax.jit(MODEL.init)(jax.random.key(3))


def texts(seed: int) -> learners.Texts:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, len(ALPHABET), (BATCH_SIZE, SLOTS)).astype(np.int32)
    valid = rng.random((BATCH_SIZE, SLOTS)) < 0.8
    mask = valid & (rng.random((BATCH_SIZE, SLOTS)) < 0.7)
    return learners.Texts(tokens, valid, mask)


def examples(i: int) -> learners.Examples:
    weight = np.random.default_rng(i).random(BATCH_SIZE).astype(np.float32)
    return learners.Examples(*texts(i), weight)


def pairs(i: int) -> learners.Pairs:
    scores = np.random.default_rng(i).normal(size=(2, BATCH_SIZE)).astype(np.float32)
    return learners.Pairs(texts(i), texts(i + 100), *scores)


def labelled(i: int) -> learners.Labelled:
    label = np.random.default_rng(i).random((BATCH_SIZE, SLOTS)).astype(np.float32)
    return learners.Labelled(*texts(i), label)


def adam() -> optax.GradientTransformation:
    return optax.adam(1e-3, eps=1e-3)


def finetune(axis_name: Any) -> Any:
    return learners.finetune(MODEL, adam(), aggregation="sequence_mean", axis_name=axis_name)


def preference(axis_name: Any) -> Any:
    loss = functools.partial(preferences.dpo, beta=0.1)
    return learners.preference(MODEL, adam(), loss, supervised_weight=0.1, axis_name=axis_name)


def judge(axis_name: Any) -> Any:
    return learners.judge(MODEL, adam(), axis_name=axis_name)


def paid(problem: Any, verdict: Any, tokens: Any, valid: Any) -> Any:
    return jnp.where(valid, tokens / 61, 0).sum()


def policy_gradient(axis_name: Any) -> Any:
    """With everything that is carried or reduced: a moving reference, two steps, truncation."""
    return learn_from_reward(
        MODEL,
        chained(1),
        adam(),
        group_size=2,
        room=4,
        reward=paid,
        clip=(0.2, 0.3),
        divergence=Divergence(0.1, "k3", "loss", 0.9),
        entropy_weight=0.01,
        num_steps=2,
        options=Options(temperature=0.9, top_p=0.8),
        axis_name=axis_name,
    )


def in_turns(axis_name: Any) -> Any:
    """Two turns, a choice of problems, groups left out."""
    return learn_from_reward(
        MODEL,
        LETTERS,
        adam(),
        group_size=2,
        room=3,
        reward=paid,
        instructions=[said("!")],
        aggregation="sequence_mean",
        skip_equal=True,
        tries=2,
        axis_name=axis_name,
    )


def ppo(axis_name: Any) -> Any:
    return learn_with_critic(
        MODEL,
        LETTERS,
        adam(),
        room=4,
        reward=paid,
        value_clip=0.2,
        divergence=Divergence(0.1, decay=0.9),
        axis_name=axis_name,
    )


def draw(base: Any, at: Any, key: Any) -> Any:
    """Two sequences of two tokens at every place, and how probable they are."""
    keys = lambda place: jax.random.split(jax.random.fold_in(key, place))
    numbers = jax.vmap(jax.vmap(lambda key: tables.draw(key, base)))(jax.vmap(keys)(at))
    return numbers, jax.vmap(functools.partial(log_prob, base))(numbers)


def log_prob(params: Any, numbers: Any) -> Any:
    return jax.vmap(functools.partial(tables.log_prob_of, params))(numbers)


def amortise(axis_name: Any) -> Any:
    return sharpening.amortise(draw, log_prob, adam(), num_samples=2, axis_name=axis_name)


def regress(axis_name: Any) -> Any:
    return sharpening.regress(draw, log_prob, adam(), beta=0.5, axis_name=axis_name)


def of_table(name: str, build: Any) -> Row:
    policy = lambda: (tables.random_policy(jax.random.key(4), 3, 2),)
    misuse = lambda core, state: core.update(state, {}, jax.random.key(0))
    return Row(name, build, policy, places, misuse, "batch of places", random=True)


def row(name: str, build: Any, batch: Any, error: str, **more: Any) -> Row:
    def misuse(core: Any, state: Any) -> Any:
        return core.update(state, {}, jax.random.key(0))

    return Row(name, build, lambda: (parameters(),), batch, misuse, error, **more)


ROWS = [
    row("lm_finetune", finetune, examples, "needs Examples"),
    row("lm_preference", preference, pairs, "needs Pairs"),
    row("lm_judge", judge, labelled, "needs Labelled"),
    row("lm_policy_gradient", policy_gradient, places, "batch of places", random=True),
    row("lm_policy_gradient_in_turns", in_turns, places, "batch of places", random=True),
    row("lm_ppo", ppo, places, "batch of places", random=True),
    of_table("lm_amortise", amortise),
    of_table("lm_regress", regress),
]
