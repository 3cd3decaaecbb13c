"""Parts of the commands that learn from trajectories."""

from jaxtrain.host import commands

commands.refuse_others(__name__)
