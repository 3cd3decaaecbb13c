"""Learning of language models from demonstrations, rewards and preferences.

    advantage = group_advantage(reward, "leave_one_out")         # [P, G]
    tokens = surrogate(log_prob, old_log_prob, advantage.reshape(-1, 1), mask)
    loss = aggregate(tokens, mask, "token_mean")

Objectives, advantages and preferences take arrays of log-probabilities and masks and name no model;
`learners`, `policy_gradient` and `ppo` are cores made of them and of `jaxtrain.lm`, `turns` are
dialogues, and `tasks` hold what to learn.
"""

from typing import TYPE_CHECKING

from jaxtrain.faces import lazy

if TYPE_CHECKING:
    from jaxrl.lm import advantages as advantages
    from jaxrl.lm import learners as learners
    from jaxrl.lm import objectives as objectives
    from jaxrl.lm import preferences as preferences
    from jaxrl.lm import samples as samples
    from jaxrl.lm import sharpening as sharpening
    from jaxrl.lm import tasks as tasks
    from jaxrl.lm import turns as turns
    from jaxrl.lm.advantages import group_advantage as group_advantage
    from jaxrl.lm.advantages import token_advantages as token_advantages
    from jaxrl.lm.learners import Examples as Examples
    from jaxrl.lm.learners import Labelled as Labelled
    from jaxrl.lm.learners import Pairs as Pairs
    from jaxrl.lm.learners import Texts as Texts
    from jaxrl.lm.learners import finetune as finetune
    from jaxrl.lm.learners import judge as judge
    from jaxrl.lm.learners import preference as preference
    from jaxrl.lm.objectives import aggregate as aggregate
    from jaxrl.lm.objectives import coverage_loss as coverage_loss
    from jaxrl.lm.objectives import kl_estimate as kl_estimate
    from jaxrl.lm.objectives import supervised as supervised
    from jaxrl.lm.objectives import surrogate as surrogate
    from jaxrl.lm.policy_gradient import Divergence as Divergence
    from jaxrl.lm.policy_gradient import check_progress as check_progress
    from jaxrl.lm.policy_gradient import policy_gradient as policy_gradient
    from jaxrl.lm.policy_gradient import watched_progress as watched_progress
    from jaxrl.lm.ppo import ppo as ppo
    from jaxrl.lm.preferences import dpo as dpo
    from jaxrl.lm.preferences import preference_margin as preference_margin
    from jaxrl.lm.turns import Instruction as Instruction
    from jaxrl.lm.turns import converse as converse
    from jaxrl.lm.turns import restart as restart
    from jaxrl.lm.turns import said as said

lazy(__name__)
