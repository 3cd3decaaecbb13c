"""Learned objectives: rules and drifts that train agents, and how they are learned."""

from typing import TYPE_CHECKING

from jaxtrain.faces import lazy

if TYPE_CHECKING:
    from jaxrl.meta import lifetime as lifetime
    from jaxrl.meta import rule_files as rule_files
    from jaxrl.meta.evolution import EvolutionState as EvolutionState
    from jaxrl.meta.evolution import Shape as Shape
    from jaxrl.meta.evolution import centred_rank as centred_rank
    from jaxrl.meta.evolution import decaying_adam as decaying_adam
    from jaxrl.meta.evolution import evolution as evolution
    from jaxrl.meta.evolution import pair_rank as pair_rank
    from jaxrl.meta.evolution import z_score as z_score
    from jaxrl.meta.learned_drift import fitness_of_drift as fitness_of_drift
    from jaxrl.meta.learned_drift import learning_curve as learning_curve
    from jaxrl.meta.learned_objective import MetaGradientState as MetaGradientState
    from jaxrl.meta.learned_objective import fitness_of_lives as fitness_of_lives
    from jaxrl.meta.learned_objective import meta_gradient as meta_gradient
    from jaxrl.meta.learned_objective import updates_run as updates_run
    from jaxrl.meta.learned_rule import Rule as Rule
    from jaxrl.meta.learned_rule import RuleInputs as RuleInputs
    from jaxrl.meta.learned_rule import RuleOutputs as RuleOutputs
    from jaxrl.meta.learned_rule import recurrent_rule as recurrent_rule
    from jaxrl.meta.lifetime import AgentState as AgentState
    from jaxrl.meta.lifetime import Optimizers as Optimizers
    from jaxrl.meta.lifetime import Setting as Setting
    from jaxrl.meta.lifetime import init_agent as init_agent
    from jaxrl.meta.lifetime import live as live

lazy(__name__)
