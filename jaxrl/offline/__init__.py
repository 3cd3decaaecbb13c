"""Learners of trajectories that others have left: representations, skills, imitation."""

from typing import TYPE_CHECKING

from jaxtrain.faces import lazy

if TYPE_CHECKING:
    from jaxrl.offline import windows as windows
    from jaxrl.offline.beso import beso as beso
    from jaxrl.offline.cloning import cloning as cloning
    from jaxrl.offline.hilp import HilpState as HilpState
    from jaxrl.offline.hilp import hilp as hilp
    from jaxrl.offline.windows import Trajectories as Trajectories

lazy(__name__)
