"""Draws Re-ARC pairs once and writes them to disk, for training without slow generators.

python -m experiments.build_rearc_cache --out=rearc/ --samples=1000
python -m experiments.build_rearc_cache --out=small/ --tasks=first:20 --samples=500 --max_side=10

Interrupted, the same command goes on where it was; with more samples it extends what is there. One
core draws about 300 pairs a second and a pair takes about 560 bytes, so 1000 pairs of all 400 tasks
take about 22 minutes of one core and 225 MB. Most pairs are large: to get small ones at a similar
speed, lower --max_difficulty along with --max_side (0.3 and 10, for example).
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from experiments.data.arc import rearc, rearc_cache
from experiments.data.arc.pool import Pool


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.build_rearc_cache",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.error = lambda message: parser.exit(2, f"{message}\n")  # type: ignore[method-assign]
    parser.add_argument("--out", required=True, help="folder of the cache")
    parser.add_argument("--samples", type=_up_to(10**6), required=True, help="pairs per task")
    parser.add_argument("--tasks", default="all", help="all, first:<n>, or ids with commas")
    parser.add_argument("--seed", type=int, default=0, help="seed of the pairs")
    parser.add_argument("--max_side", type=_up_to(30), default=30, help="largest rows or columns")
    parser.add_argument("--max_difficulty", type=float, default=1.0, help="0 to 1")
    parser.add_argument("--verify", action="store_true", help="keep what the solver confirms")
    parser.add_argument("--workers", type=_up_to(256), default=os.cpu_count(), help="processes")
    args = parser.parse_args(arguments)
    if not args.out:
        parser.error("--out names no folder.")
    try:
        options = rearc.Options(
            **_tasks(args.tasks),
            max_rows=args.max_side,
            max_cols=args.max_side,
            difficulty=(0.0, args.max_difficulty),
            verify=args.verify,
        )
        with Pool(args.workers) as pool:
            _build(args.out, options, args.seed, args.samples, pool)
    except (rearc.RearcError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last complete file.")
        return 1
    left_out = rearc_cache.left_out(args.out)
    if left_out:
        print(f"left out, since hardly any of their pairs fits: {', '.join(left_out)}")
    return 0


def _build(folder: str, options: rearc.Options, seed: int, samples: int, pool: Pool) -> None:
    steps = rearc_cache.build(folder, options, seed=seed, samples=samples, pool=pool)
    already, total = next(steps)
    begin = shown = time.monotonic()
    print(f"{already}/{total} pairs are there already")
    for done, total in steps:
        now = time.monotonic()
        if now - shown > 1 or done == total:
            shown, rate = now, (done - already) / (now - begin)
            left = f"{(total - done) / rate:.0f} s left"
            line = f"{done}/{total} pairs ({100 * done // total}%), {rate:.0f} pairs/s, {left}"
            print(f"\r{line:<70}", end="" if done < total else "\n", flush=True)


def _tasks(text: str) -> dict[str, Any]:
    if text == "all":
        return {}
    if text.startswith("first:"):
        if not text[6:].isdecimal():
            raise rearc.RearcError(f"--tasks={text}: expected first: and a number.")
        return {"only_n_tasks": int(text[6:])}
    return {"tasks": tuple(text.split(","))}


def _up_to(most: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(
                f"expected a whole number from 1 to {most}, got {text}."
            )
        return int(text)

    return whole


if __name__ == "__main__":
    sys.exit(main())
