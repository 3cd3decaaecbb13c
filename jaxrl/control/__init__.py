"""Control from more than a reward: comparisons, attacks, several rewards, sequences of actions."""

from typing import TYPE_CHECKING

from jaxtrain.faces import lazy

if TYPE_CHECKING:
    from jaxrl.control import held_actions as held_actions
    from jaxrl.control import protected as protected
    from jaxrl.control import slim as slim
    from jaxrl.control import spo as spo
    from jaxrl.control.protected import defence as defence
    from jaxrl.control.protected import discover as discover
    from jaxrl.control.protected import exp3 as exp3
    from jaxrl.control.slim import several as several
    from jaxrl.control.slim import with_skill as with_skill
    from jaxrl.control.spo import minimax_winner as minimax_winner
    from jaxrl.control.spo import reward_model as reward_model
    from jaxrl.control.spo import self_play as self_play
    from jaxrl.control.srl import sequence_mlp as sequence_mlp
    from jaxrl.control.srl import srl as srl

lazy(__name__)
