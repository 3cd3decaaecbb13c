"""Learners of control whose feedback is more than a reward: comparisons of trajectories."""

from typing import TYPE_CHECKING

from jaxtrain.faces import lazy

if TYPE_CHECKING:
    from jaxrl.control import spo as spo
    from jaxrl.control.spo import minimax_winner as minimax_winner
    from jaxrl.control.spo import reward_model as reward_model
    from jaxrl.control.spo import self_play as self_play

lazy(__name__)
