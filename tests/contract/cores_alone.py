"""Systems that stand alone: sparse codes, representations, actions in videos, prompts by task."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxtrain
from jaxtrain import parallel
from jaxtrain.nets.linen import from_linen
from jaxtta.barlow_twins import Projector, Twins, barlow_twins
from jaxtta.images.changes.two_views import small
from jaxtta.ovor import Head, ovor, prompt_phase
from jaxtta.sparsey import Rule, Sizes, sparsey
from jaxtta.vision_language.rlcf import remembering, rlcf, tpt
from jaxtta.vision_language.t3al import Towers, t3al
from tests.contract.row import BATCH_SIZE, CLASSES, FEATURES, Row, key_only


def memory(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    fields = np.array([[0, 1, 2, 3], [2, 3, 4, -1]])
    sizes = Sizes(2, 3, fields, num_labels=3, recurrent=True)
    rule = Rule(last_centre=0.6, moves_at=0.1, freeze=0.8, band=(0.1, 0.9))
    return sparsey(sizes, rule=rule, axis_name=axis_name)


def presented(i: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(i)
    return {
        "inputs": rng.random((BATCH_SIZE, FEATURES)) < 0.5,
        "labels": rng.integers(-1, 3, BATCH_SIZE).astype(np.int32),
        "first": rng.random(BATCH_SIZE) < 0.3,
    }


def too_few_inputs(core: jaxtrain.Core, state: Any) -> Any:
    batch = presented(0)
    return core.update(state, {**batch, "inputs": batch["inputs"][:, :3]}, jax.random.key(0))


class Flat(Projector):
    """An encoder of one layer on images."""

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return super().__call__(x.reshape(len(x), -1), train)


def twins(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    model = from_linen(Twins(Flat((4,), axis_name), Projector((3, 3), axis_name)))
    return barlow_twins(model, small, optax.adam(1e-2), mode="gram", axis_name=axis_name)


def grey(i: int) -> dict[str, np.ndarray]:
    return {"inputs": np.random.default_rng(i).random((BATCH_SIZE, 4, 4)).astype(np.float32)}


def training_args() -> tuple[Any, ...]:
    return jax.random.key(0), jax.tree.map(jnp.asarray, grey(0))


def without_inputs(core: jaxtrain.Core, state: Any) -> Any:
    return core.update(state, {"images": grey(0)["inputs"]}, jax.random.key(0))


def localiser(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    numbers = dict(num_steps=2, picks=2, per_pick=2, jitter=2, width=2, gap=1)
    return t3al(optax.adam(1e-2), **numbers, axis_name=axis_name)


def towers_and_names() -> tuple[Any, ...]:
    rng = np.random.default_rng(7)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return Towers(draw(FEATURES, 4), draw(3, 4), draw()), draw(2, 3)


def filmed(i: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(i)
    frames = rng.normal(size=(BATCH_SIZE, FEATURES)).astype(np.float32)
    return {"inputs": frames, "mask": np.arange(BATCH_SIZE) < 13}


def frames_of_other_features(core: jaxtrain.Core, state: Any) -> Any:
    return core.update(state, {"inputs": np.zeros((BATCH_SIZE, 2))}, jax.random.key(0))


def seen(params: Any, known: Any, images: Any) -> jax.Array:
    return known[0] * images.reshape(len(images), -1) @ params


def liked(known: Any, images: Any) -> jax.Array:
    return jnp.tanh(images.reshape(len(images), -1) @ known[1])


def by_reward(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    numbers = dict(share=0.3, num_candidates=2, num_steps=2)
    core = rlcf(seen, liked, optax.adam(1e-2), **numbers, axis_name=axis_name)
    return remembering(core, decay=0.5, every=2)


def by_entropy(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    return tpt(seen, optax.adam(1e-2), share=0.3, axis_name=axis_name)


def policy_and_known() -> tuple[Any, ...]:
    rng = np.random.default_rng(9)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return draw(12, CLASSES), (jnp.array(3.0), draw(12, CLASSES))


def views(i: int) -> dict[str, np.ndarray]:
    images = np.random.default_rng(i).normal(size=(BATCH_SIZE, 2, 2, 3))
    return {"inputs": images.astype(np.float32)}


def masked_views(core: jaxtrain.Core, state: Any) -> Any:
    batch = views(0) | {"mask": np.ones(BATCH_SIZE, bool)}
    return core.update(state, batch, jax.random.key(0))


_FIRST = {"order": "the first view is the image that is classified"}


def prompted(weights: Any, prompts: Any, inputs: Any, task: Any) -> tuple[jax.Array, jax.Array]:
    return jnp.tanh(inputs @ weights + prompts[None]), jnp.full(len(inputs), prompts[0])


def images_of_a_task(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    return prompt_phase(prompted, optax.adam(1e-2), classes_per_task=2, axis_name=axis_name)


def outliers_of_a_task(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    bounds = dict(low=-1.0, high=-1.5)
    return ovor(optax.adam(1e-2), classes_per_task=2, **bounds, axis_name=axis_name)


def prompts_and_head() -> tuple[Any, ...]:
    rng = np.random.default_rng(8)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return draw(FEATURES, 3), draw(3), Head(draw(3, CLASSES), draw(CLASSES)), jnp.array(1)


def learned_by_task(i: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(i)
    inputs = rng.normal(size=(BATCH_SIZE, FEATURES)).astype(np.float32)
    return {"inputs": inputs, "labels": rng.integers(2, 4, BATCH_SIZE).astype(np.int32)}


def with_outliers(i: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(i)
    draw = lambda: rng.normal(size=(BATCH_SIZE, 3)).astype(np.float32)
    labels = rng.integers(2, 4, BATCH_SIZE).astype(np.int32)
    return {"features": draw(), "labels": labels, "outliers": draw()}


def outliers_first(core: jaxtrain.Core, state: Any) -> Any:
    return core.update(state, with_outliers(0), jax.random.key(0))


def images_second(core: jaxtrain.Core, state: Any) -> Any:
    return core.update(state, learned_by_task(0), jax.random.key(0))


ROWS = [
    Row(
        "rlcf",
        by_reward,
        policy_and_known,
        views,
        masked_views,
        "leave out the mask",
        exceptions=_FIRST,
    ),
    Row(
        "tpt",
        by_entropy,
        policy_and_known,
        views,
        masked_views,
        "leave out the mask",
        exceptions=_FIRST,
    ),
    Row(
        "prompt_phase",
        images_of_a_task,
        prompts_and_head,
        learned_by_task,
        outliers_first,
        "a dict of inputs, labels",
    ),
    Row(
        "ovor",
        outliers_of_a_task,
        prompts_and_head,
        with_outliers,
        images_second,
        "a dict of features, labels, outliers",
    ),
    Row(
        "t3al",
        localiser,
        towers_and_names,
        filmed,
        frames_of_other_features,
        r"frames \[T, 6\]",
        random=True,
        exceptions={"order": "a batch is the frames of a video in their order"},
    ),
    Row(
        "barlow_twins",
        twins,
        training_args,
        grey,
        without_inputs,
        "a dict with 'inputs'",
        random=True,
        exceptions={"order": "every place in the batch has its own views"},
    ),
    Row(
        "sparsey",
        memory,
        key_only,
        presented,
        too_few_inputs,
        "features up to 4",
        random=True,
        exceptions={"order": "items are written one after the other"},
    ),
]
