"""Worker process of `experiments.data.arc.pool`: answers pickled calls on standard input.

It imports neither JAX nor the program that started it, so it starts in a fraction of a second and
costs little memory. It ends when its input is closed, or a second after its parent was killed.
"""

import os
import pickle
import signal
import sys
import threading
import time


def main() -> None:
    # Ctrl-C and preemption reach the whole process group; the parent decides when work ends.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # what a generator prints must not mix with the answers
    while True:
        try:
            function, arguments = pickle.load(requests)
        except EOFError:
            return
        try:
            answer = True, function(*arguments)
        except Exception as error:
            answer = False, error
        try:
            pickle.dump(answer, answers)
            answers.flush()
        except BrokenPipeError:
            return


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main()
