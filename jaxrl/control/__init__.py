"""Learners of control: from comparisons of trajectories, and of sequences of actions."""

from typing import TYPE_CHECKING

from jaxtrain.faces import lazy

if TYPE_CHECKING:
    from jaxrl.control import held_actions as held_actions
    from jaxrl.control import spo as spo
    from jaxrl.control.spo import minimax_winner as minimax_winner
    from jaxrl.control.spo import reward_model as reward_model
    from jaxrl.control.spo import self_play as self_play
    from jaxrl.control.srl import sequence_mlp as sequence_mlp
    from jaxrl.control.srl import srl as srl

lazy(__name__)
