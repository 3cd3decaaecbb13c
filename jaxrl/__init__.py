"""Cores that learn from reward, preference, demonstration or their own samples.

    jaxrl.ppo(env, network, optimizer, ...)        # learn in an environment
    jaxrl.meta.evolution(...)                      # learn the objective itself
    jaxrl.lm.group_advantage(reward, ...)          # learn a language model from its samples

Importing `jaxrl` costs nothing: a name is loaded when it is first used.
"""

from typing import TYPE_CHECKING

from jaxtrain.faces import lazy

if TYPE_CHECKING:
    from jaxrl import buffers as buffers
    from jaxrl import distributions as distributions
    from jaxrl import drift as drift
    from jaxrl import envs as envs
    from jaxrl import lm as lm
    from jaxrl import losses as losses
    from jaxrl import meta as meta
    from jaxrl import minibatches as minibatches
    from jaxrl import networks as networks
    from jaxrl import normalise as normalise
    from jaxrl import offline as offline
    from jaxrl import returns as returns
    from jaxrl.actor_critic import ActorCriticState as ActorCriticState
    from jaxrl.actor_critic import a2c as a2c
    from jaxrl.actor_critic import acting as acting
    from jaxrl.actor_critic import collect as collect
    from jaxrl.actor_critic import ppo as ppo
    from jaxrl.memory import MemoryNetwork as MemoryNetwork
    from jaxrl.memory import remembering as remembering
    from jaxrl.memory_networks import agent as agent
    from jaxrl.memory_networks import context as context
    from jaxrl.memory_networks import recurrent as recurrent
    from jaxrl.memory_ppo import memory_ppo as memory_ppo
    from jaxrl.minibatches import Samples as Samples
    from jaxrl.minibatches import actor_critic_loss as actor_critic_loss
    from jaxrl.minibatches import epoch as epoch
    from jaxrl.minibatches import gradient_step as gradient_step
    from jaxrl.minibatches import with_advantages as with_advantages
    from jaxrl.networks import Network as Network
    from jaxrl.networks import mlp as mlp
    from jaxrl.off_policy import off_policy as off_policy
    from jaxrl.returns import generalised_advantages as generalised_advantages
    from jaxrl.returns import lambda_returns as lambda_returns
    from jaxrl.rollout import Transition as Transition
    from jaxrl.rollout import Worker as Worker
    from jaxrl.rollout import episode as episode
    from jaxrl.rollout import new_worker as new_worker
    from jaxrl.rollout import rollout as rollout
    from jaxrl.soft_actor_critic import soft_actor_critic as soft_actor_critic
    from jaxrl.soft_actor_critic import soft_mlp as soft_mlp

lazy(__name__)
