"""Paired timings, most of them commands."""

from jaxtrain.host import commands

commands.refuse_others(__name__)
