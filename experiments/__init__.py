"""The commands, one file each, and folders with their parts; `python -m experiments` lists them."""

from jaxtrain.host import commands

commands.refuse_others(__name__)
