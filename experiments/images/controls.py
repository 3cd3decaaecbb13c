"""Rows of `tta_images` that say which part of a method its numbers come from.

A control is the method with other settings, such as the learning rate 0, or `weights_only`: batch
statistics with the weights that the method was given before deployment.
"""

import ast
from typing import Any

from ml_collections import ConfigDict

from experiments.images import methods
from experiments.images.known import Known
from experiments.images.methods import Builder, Method
from experiments.images.source import Source
from jaxtrain import trees
from jaxtrain.host.config import UsageError
from jaxtrain.host.settings import check, did_you_mean
from jaxtta.images.vida import with_adapters

WEIGHTS_ONLY = "weights_only"
RETRAINED = ("petal", "rmt", "vida")  # methods that train weights again before deployment


def with_controls(config: ConfigDict) -> dict[str, Builder]:
    """The methods of a run, every one followed by its controls, `method(control)`."""
    found = {}
    for name, build in methods.chosen(config).items():
        found[name] = build
        for text in config.controls.get(name, ()):
            found[f"{name}({text})"] = control(config, name, text)
    return found


def control(config: ConfigDict, name: str, text: str) -> Builder:
    """One control of a method."""
    if text != WEIGHTS_ONLY:
        return methods.bound(config, name, **changes_of(text))
    build = methods.bound(config, name)
    return lambda source, known: weights_only(name, source, known, build(source, known))


def changes_of(text: str) -> dict[str, Any]:
    """`"rate=0,norms=True"` as settings."""
    return {key: _value(given) for key, _, given in (x.partition("=") for x in text.split(","))}


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def weights_only(name: str, source: Source, known: Known, of: Method) -> Method:
    """Batch statistics with the weights that a method starts from, which stay as they are."""
    state = of.core.init(*of.args)
    params = trees.merge(state.params, state.frozen)
    apply = with_adapters(source.apply) if name == "vida" else source.apply
    core = methods.method("batch_norm")(source._replace(apply=apply), known).core
    return Method(core, (params, state.model_state))


def check_controls(config: ConfigDict) -> None:
    """The controls of the methods of a run are settings that the methods have.

    Raises:
      UsageError: names the control.
    """
    for name in methods.chosen(config):
        known = config.method.get(name, {})
        for text in config.controls.get(name, ()):
            where = f"controls.{name}={text!r}"
            if text == WEIGHTS_ONLY:
                if name not in RETRAINED:
                    raise UsageError(
                        f"{where}: {name} starts from the weights of the source, whose batch "
                        f"statistics are the method batch_norm; only {', '.join(RETRAINED)} train "
                        "weights again"
                    )
                continue
            for key, value in changes_of(text).items():
                if key not in known:
                    hint = did_you_mean(key, known)
                    raise UsageError(f"{where}: method.{name} has no setting {key!r}{hint}")
                if isinstance(known[key], bool) != isinstance(value, bool):
                    kind = "True or False" if isinstance(known[key], bool) else "no truth value"
                    raise UsageError(f"{where}: {key} is {kind}")
                check(config, {f"method.{name}.{key}": value})
