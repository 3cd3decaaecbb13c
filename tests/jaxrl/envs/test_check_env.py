"""Every fault of an environment is one sentence; the environments of this package have none."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from jaxrl import envs
from jaxrl.envs import Box, Discrete, Environment, Step, check_env, from_brax
from tests.jaxrl.envs.test_control import Falling
from tests.jaxrl.tiny import walk

STATE = {"place": jnp.zeros(2), "time": jnp.int32(0)}
STEP = Step(jnp.ones(3), STATE, jnp.float32(1), jnp.asarray(False), jnp.asarray(True), {})


START, TWO = (jnp.zeros(3), STATE), Discrete(2)


def made(start=START, step=STEP, action=TWO):
    return Environment(lambda key, params: start, lambda *args: step, action, ())


@pytest.mark.parametrize(
    "env",
    [
        made(),
        made(action=Box((2,), -1.0, 1.0)),
        walk(),
        envs.cart_pole(),
        envs.pendulum(),
        envs.bandit(3),
        from_brax(Falling(), 3),
    ],
)
def test_sound_environments_pass(env):
    check_env(env)


def test_levels_may_be_given():
    family = envs.FAMILIES["debug"]
    check_env(envs.grid_world(family.shape), envs.sample_level(family, jax.random.key(0)))
    with pytest.raises(ValueError, match="cannot be traced"):
        check_env(envs.grid_world(family.shape))  # it has no level of its own


def undecided(key, state, action, params):
    return STEP if action > 0 else STEP._replace(reward=jnp.float32(2))


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        (SimpleNamespace(reset=None), "this is a SimpleNamespace"),
        (made(action=3), "must be jaxrl.envs.Discrete or Box, but is a int"),
        (made(action=Discrete(0)), "has no actions"),
        (made(action=Box((1,), 1.0, -1.0)), "the lower one first"),
        (made(action=Box((1,), 0.0, float("inf"))), "finite bounds"),
        (made(start=jnp.zeros(3)), r"returns float32 \[3\]"),
        (made(start=(jnp.zeros(3), STATE, {})), "returns a tuple of 3"),
        (made(step=tuple(STEP)), "returns a tuple of 6"),
        (made(step=tuple(STEP)[:5]), "a single flag done"),
        (made(step=STEP._replace(reward=jnp.int32(1))), r"a float32, .* returns int32 \[\]"),
        (made(step=STEP._replace(reward=jnp.ones(1))), r"reward must be .* float32 \[1\]"),
        (made(step=STEP._replace(truncated=None)), "no `truncated`; .* cut"),
        (made(step=STEP._replace(terminated=None)), "no `terminated`; .* without a future"),
        (made(step=STEP._replace(terminated=jnp.float32(0))), "terminated must be a bool"),
        (made(step=STEP._replace(truncated=jnp.zeros(2, bool))), r"truncated .* bool \[2\]"),
        (made(step=STEP._replace(info=())), "info must be a dict"),
        (made(step=STEP._replace(state=())), "the state has structure"),
        (made(step=STEP._replace(observation=jnp.ones(4))), r"float32 \[3\] at the reset"),
        (made(step=STEP._replace(state=STATE | {"time": jnp.float32(0)})), r"state\['time'\] is"),
        (made()._replace(step=undecided), "step.* cannot be traced: TracerBoolConversionError"),
        (made()._replace(reset=lambda key: None), r"reset\(key, params\) cannot be traced"),
    ],
)
def test_faults_are_named(env, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        check_env(env)
    assert "\n" not in str(error.value)


class AutoResetWrapper(SimpleNamespace):
    """As brax writes it: what it lacks is looked up in the environment inside."""

    def __getattr__(self, name):
        return getattr(self.env, name)


class EpisodeWrapper(AutoResetWrapper):
    pass


class RenderWrapper(AutoResetWrapper):
    pass


@pytest.mark.parametrize("name", ["AutoResetWrapper", "EpisodeWrapper"])
def test_wrappers_that_reset_or_end_episodes_are_refused(name):
    wrapped = globals()[name](env=Falling())
    for env in (wrapped, RenderWrapper(env=wrapped)):
        with pytest.raises(ValueError, match=f"{name} .* give the bare environment"):
            from_brax(env)
    check_env(from_brax(RenderWrapper(env=Falling())))


def test_what_is_not_like_brax_is_refused():
    with pytest.raises(ValueError, match="SimpleNamespace has no action_size"):
        from_brax(SimpleNamespace(reset=None, step=None))
