"""Anyhost: five vision models on whatever machine this is.

python app.py            serve the page on port 7860
python app.py plan       what would run where, and why
python app.py host       what this machine is
python app.py run        do one job without a browser
python app.py batch      work through a folder, resuming where it was
python app.py weights    what is on this disk; fetch beforehand, delete
python app.py tune       try a few plans here and keep the fastest
python app.py package    compile ahead of time, for where nothing can be compiled
python app.py bench      measure the tables that made you want this
python app.py doctor     what is missing and how to get it
"""

import argparse
import sys
from collections.abc import Sequence

from commands import batch, bench, doctor, exits, host, package, plan, run, serve, tune, weights


def parser() -> argparse.ArgumentParser:
    """All commands. Nothing here imports torch or gradio."""
    whole = argparse.ArgumentParser(prog="app.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = whole.add_subparsers(metavar="COMMAND")
    for command in (serve, plan, host, run, weights, batch, tune, package, bench, doctor):
        command.add(commands)
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 failed, 2 wrong use, 3 does not fit or refused."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words.insert(0, "serve")
    args = parser().parse_args(words)
    return exits.run(args.main, args)


if __name__ == "__main__":
    sys.exit(main())
