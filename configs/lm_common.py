"""What the configs of the language-model commands share. Not a config itself."""

from typing import Any

from jaxtrain.host.settings import above, at_least, free


def rates(learning_rate: float, warmup_steps: int, schedule: str) -> dict[str, Any]:
    """Learning rates of a run."""
    return dict(
        learning_rate=at_least(0, learning_rate),
        warmup_steps=at_least(0, warmup_steps),
        schedule=free(schedule),
    )


def clipped(learning_rate: float, warmup_steps: int) -> dict[str, Any]:
    """An optimiser whose rate falls along a cosine and whose gradients are clipped."""
    return rates(learning_rate, warmup_steps, "cosine") | dict(max_grad_norm=above(0, 1.0))
