"""Judgements read off a language model: from the next token, or from a hidden state.

A verdict is the probability of designated tokens, "True" among "True" and "False", at the place
where the model would write its verdict. Nothing is generated. Vocabularies come as
log-probabilities `[..., V]` or logits, which differ by a constant that shares do not see.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from jaxtrain.lm.heads import Head, head_logit


def _check_ids(log_probs: Array, *lists: Sequence[int]) -> None:
    """Raises ValueError for ids that are none, that occur twice, or a list without any."""
    size = log_probs.shape[-1]
    for ids in lists:
        if not len(ids):
            raise ValueError("a list of ids is empty; name one token at least.")
        if len(set(ids)) != len(ids):
            raise ValueError(f"the ids {list(ids)} hold one twice; it would count twice.")
        if foreign := [i for i in ids if not 0 <= i < size]:
            raise ValueError(f"the ids {foreign} are not among the {size} tokens.")


def token_share(log_probs: Array, chosen: Sequence[int], among: Sequence[int]) -> Array:
    """p(chosen) / p(among), the verdict renormalised within its options.

    Args:
      log_probs: `[..., V]`, nats; logits will do.
      chosen: ids that say yes, for example "True" and " True"; each of them also in `among`.
      among: ids of all options.

    Returns:
      In [0, 1], `[...]`.

    Raises:
      ValueError: an id of `chosen` is not in `among`, an id occurs twice or is none, or there is
        no id.
    """
    _check_ids(log_probs, chosen, among)
    if missing := set(chosen) - set(among):
        raise ValueError(f"ids {sorted(missing)} are chosen but not among the options.")
    total = lambda ids: jax.nn.logsumexp(log_probs[..., jnp.asarray(ids)], -1)
    return jnp.exp(total(chosen) - total(among))


def token_mass(log_probs: Array, chosen: Sequence[int]) -> Array:
    """p(chosen) among all tokens: small too where the model would say something else.

    Args:
      log_probs: `[..., V]`, nats, normalised.
      chosen: ids, each once.

    Returns:
      In [0, 1], `[...]`.

    Raises:
      ValueError: an id occurs twice or is none, or there is no id.
    """
    _check_ids(log_probs, chosen)
    return jnp.exp(log_probs[..., jnp.asarray(chosen)]).sum(-1)


def token_choice(log_probs: Array, among: Sequence[int]) -> Array:
    """Position in `among` of its most probable token: the answer a layer or a head would give.

    Args:
      log_probs: `[..., V]`.
      among: ids of all options.

    Returns:
      `[...]`, int32; the first of equal ones.

    Raises:
      ValueError: an id occurs twice or is none, or there is no id.
    """
    _check_ids(log_probs, among)
    return jnp.argmax(log_probs[..., jnp.asarray(among)], -1).astype(jnp.int32)


def p_true(log_probs: Array, true: Sequence[int], false: Sequence[int]) -> Array:
    """P(True): does the model say of a proposed answer that it is true?

    Args:
      log_probs: of the token after the question, the proposed answer and the request for a
        verdict, `[..., V]`.
      true: ids that say yes.
      false: ids that say no.

    Returns:
      In [0, 1], `[...]`.

    Raises:
      ValueError: an id says both, occurs twice or is none, or there is no id.

    References:
      Kadavath et al., Language Models (Mostly) Know What They Know, arXiv 2207.05221.
    """
    return token_share(log_probs, true, [*true, *false])


def p_ik(head: Head, hidden: Array) -> Array:
    """P(IK): would the model answer this question right?

    Args:
      head: trained with `jaxtrain.lm.heads.soft_label_loss` on the share of right answers among
        samples.
      hidden: at the last token of the question, `[..., D]`.

    Returns:
      In [0, 1], `[...]`.

    References:
      Kadavath et al., Language Models (Mostly) Know What They Know, arXiv 2207.05221.
    """
    return jax.nn.sigmoid(head_logit(head, hidden))
