"""RLCF: two towers adapted to one image by the reward of two other, better towers; and TPT.

A batch is the views of one image, the image itself first. 1. The policy classifies all views, and
those with the lowest entropy are kept, once and for all steps. 2. In every step, the policy's
highest classes on each view are candidates; the reward of a candidate is how similar the reward
towers find the view and the text of the class, less the mean of the view's candidates. The loss is
the mean of reward times cross-entropy at the candidate: REINFORCE with the candidates in place of
samples. 3. The image is classified by what was adapted.

`jaxtrain.episodic(rlcf(...))` forgets every image, as the paper does. `remembering` in its place
lets later images begin at an average of what earlier ones led to, the option of the released code.
`tpt` is the same with one step on the entropy of the mean prediction, which needs no reward.

Not included: retrieval, captions, and the mean of several reward models (a `Reward` may be one).

References:
  Zhao, Wang, Zhu and Yang, Test-Time Adaptation with CLIP Reward for Zero-Shot Generalization in
  Vision-Language Models, ICLR 2024, arXiv 2305.18010. Official code: mzhaoshuai/RLCF.
  Shu et al., Test-Time Prompt Tuning, NeurIPS 2022 (`tpt`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel, trees
from jaxtrain.core import Core, Held, StepOutput
from jaxtrain.known_numbers import check_whole
from jaxtta import adaptation, batches
from jaxtta.images.memo import marginal_entropy

Policy = Callable[[Any, Any, Array], Array]
"""`(params, known, images [V, ...]) -> logits [V, C]`; only `params` are adapted."""

Reward = Callable[[Any, Array], Array]
"""`(known, images [V, ...]) -> cosines [V, C]` of images and the texts of the classes."""


class RlcfState(NamedTuple):
    """State: what is adapted, the optimiser's state, and what both pairs of towers know besides,
    `Held`."""

    params: Any
    opt_state: Any
    known: Held


def rewards(cosines: Array, *, weight: ArrayLike = 2.5, amplified: bool = False) -> Array:
    """Rewards of the candidates of each view, whose sum is 0, `[V, K]`.

    Args:
      cosines: of the view and the texts of its candidates, `[V, K]`.
      weight: of CLIPScore, weight max(cosine, 0).
      amplified: divides by the deviation over the candidates.
    """
    scores = jnp.multiply(weight, jnp.maximum(cosines, 0))
    centred = scores - scores.mean(-1, keepdims=True)
    if not amplified:
        return centred
    return centred / (scores.std(-1, ddof=1, keepdims=True) + 1e-5)


def _adapting(
    policy: Policy,
    judge: Callable[[Any, Array], Any],
    loss: Callable[[Array, Any], tuple[Array, Array]],
    optimizer: optax.GradientTransformation,
    share: float,
    num_steps: int,
    axis_name: parallel.AxisName | None,
) -> Core:
    """Steps on `loss(logits, judge(views))` of the most confident views, chosen once."""
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; it must be above 0 and at most 1.")
    check_whole(0, 2**16, num_steps=num_steps)

    def init(params: Any, known: Any) -> RlcfState:
        copied, held = adaptation.copied((params, known))
        return RlcfState(copied, adaptation.copied(optimizer.init(copied)), Held(held))

    def update(state: RlcfState, batch: Any, key: Array) -> tuple[RlcfState, StepOutput]:
        inputs, mask = batches.inputs_of(batch)
        if mask is not None:
            raise ValueError("the views of an image are all there; leave out the mask.")
        own, known = len(inputs), state.known.arrays
        views = parallel.gather(inputs, axis_name)
        number = max(int(share * len(views)), 1)
        order = adaptation.entropy(policy(state.params, known, views)).argsort()
        chosen = views[order[:number]]
        judged = jax.lax.stop_gradient(judge(known, chosen))

        def step(i: Array, carry: Any) -> Any:
            params, opt_state, *_ = carry
            objective = lambda params: loss(policy(params, known, chosen), judged)
            (value, reward), grads = jax.value_and_grad(objective, has_aux=True)(params)
            updates, moments = optimizer.update(grads, opt_state, params)
            old, new = (params, opt_state), (optax.apply_updates(params, updates), moments)
            sound = batches.stays_finite((value, *new), (jnp.zeros(()), *old))
            return *adaptation.where(sound, new, old), value, reward

        nothing = jnp.zeros((), views.dtype)
        first = (state.params, state.opt_state, nothing, nothing)
        params, opt_state, value, reward = jax.lax.fori_loop(0, num_steps, step, first)
        logits = policy(params, known, views[:1])
        metrics = {"loss": value, "reward": reward, "entropy": adaptation.entropy(logits)[0]}
        start = 0 if axis_name is None else own * jax.lax.axis_index(axis_name)
        kept = jnp.isin(jnp.arange(own) + start, order[:number])
        every = jnp.broadcast_to(logits, (own, logits.shape[1]))
        return RlcfState(params, opt_state, state.known), adaptation.report(metrics, every, kept)

    return Core(init, update)


def rlcf(
    policy: Policy,
    reward: Reward,
    optimizer: optax.GradientTransformation,
    *,
    share: float = 0.1,
    num_candidates: int = 3,
    num_steps: int = 3,
    weight: ArrayLike = 2.5,
    amplified: bool = False,
    axis_name: parallel.AxisName | None = None,
) -> Core:
    """A core that adapts to one image by reward and classifies it.

    Args:
      policy: what is adapted, such as `context_policy` or `image_policy`.
      reward: of other towers.
      optimizer: AdamW with weight decay 5e-4 in the paper, rate 7e-3 for context vectors and 1e-5
        for image towers.
      share: of the views that are kept, those of lowest entropy; at least one.
      num_candidates: highest classes of each view, K; their rewards sum to 0.
      num_steps: steps for an image.
      weight, amplified: of `rewards`; the weight may be traced.
      axis_name: mapped device axis, `None` for global arrays. Every device adapts to all views.

    Returns:
      A core with `init(params, known)`: what is adapted, and arrays for `policy` and `reward`. A
      batch is a dict with `inputs` `[V, H, W, C]`, the views of an image, itself first. Outputs:
      `logits` of the image, the same for all views, and `selected`, the views that were kept.
      Metrics: `loss` and mean `reward` of the last step, before the mean is taken away; `entropy`
      of the answer in nats.

    Raises:
      ValueError: impossible numbers, or (when called) another batch, or more candidates than
        classes.
    """
    check_whole(2, 2**16, num_candidates=num_candidates)

    def loss(logits: Array, cosines: Array) -> tuple[Array, Array]:
        if num_candidates > logits.shape[1]:
            raise ValueError(
                f"num_candidates is {num_candidates}, but there are {logits.shape[1]} classes."
            )
        _, best = jax.lax.top_k(logits, num_candidates)
        given = jnp.take_along_axis(cosines, best, 1)
        score = rewards(given, weight=weight, amplified=amplified)
        chances = jnp.take_along_axis(jax.nn.log_softmax(logits), best, 1)
        return -(score * chances).mean(), (weight * jnp.maximum(given, 0)).mean()

    return _adapting(policy, reward, loss, optimizer, share, num_steps, axis_name)


def tpt(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    *,
    share: float = 0.1,
    num_steps: int = 1,
    axis_name: parallel.AxisName | None = None,
) -> Core:
    """Test-time prompt tuning: steps on the entropy of the mean prediction of the kept views.

    Args, batches and outputs are those of `rlcf`; AdamW 5e-3 in the paper. The metric `reward` is
    0.
    """

    def loss(logits: Array, judged: Any) -> tuple[Array, Array]:
        return marginal_entropy(logits), jnp.zeros((), logits.dtype)

    return _adapting(policy, lambda known, x: (), loss, optimizer, share, num_steps, axis_name)


# --- From image to image --------------------------------------------------------------------------


class Remembered(NamedTuple):
    """State of `remembering`.

    Attributes:
      state: where the next image begins.
      original: parameters of the source.
      average: of what images led to.
      num_images: since the state was last moved, `[]`, int32.
    """

    state: Any
    original: Any
    average: Any
    num_images: Array


def remembering(
    core: Core, *, decay: ArrayLike = 0.9998, every: int = 64, weight: ArrayLike = 1.0
) -> Core:
    """Every image begins at the same state, which is moved after each `every` images.

    Then its parameters become (1 - weight) original + weight average; the average moves by 1 -
    decay towards what each image led to. With weight 0 this is `episodic`.

    Args:
      core: its state has `params`.
      decay, weight: may be traced.
      every: images.

    Raises:
      ValueError: `every` below 1.
    """
    check_whole(1, 2**31 - 1, every=every)

    def init(*args: Any) -> Remembered:
        state = core.init(*args)
        original, average = adaptation.copied((state.params, state.params))
        return Remembered(state, original, average, jnp.zeros((), jnp.int32))

    def update(state: Remembered, batch: Any, key: Array) -> tuple[Remembered, StepOutput]:
        after, out = core.update(state.state, batch, key)
        average = trees.ema(state.average, after.params, decay)
        number = state.num_images + 1
        begins = trees.ema(state.original, average, 1 - weight)
        params = adaptation.where(number == every, begins, state.state.params)
        number = jnp.where(number == every, 0, number)
        return Remembered(state.state._replace(params=params), state.original, average, number), out

    return Core(init, update)
