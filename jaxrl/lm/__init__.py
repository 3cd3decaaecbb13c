"""Learning of language models from demonstrations, rewards and preferences.

    advantage = group_advantage(reward, "leave_one_out")         # [P, G]
    tokens = surrogate(log_prob, old_log_prob, advantage.reshape(-1, 1), mask)
    loss = aggregate(tokens, mask, "token_mean")

Everything takes arrays of log-probabilities and masks; no model is named here.
"""

from typing import TYPE_CHECKING

from jaxtrain.faces import lazy

if TYPE_CHECKING:
    from jaxrl.lm import advantages as advantages
    from jaxrl.lm import objectives as objectives
    from jaxrl.lm import preferences as preferences
    from jaxrl.lm.advantages import group_advantage as group_advantage
    from jaxrl.lm.advantages import token_advantages as token_advantages
    from jaxrl.lm.objectives import aggregate as aggregate
    from jaxrl.lm.objectives import coverage_loss as coverage_loss
    from jaxrl.lm.objectives import kl_estimate as kl_estimate
    from jaxrl.lm.objectives import supervised as supervised
    from jaxrl.lm.objectives import surrogate as surrogate
    from jaxrl.lm.preferences import dpo as dpo
    from jaxrl.lm.preferences import preference_margin as preference_margin

lazy(__name__)
