"""The command line: one module a command, each with ``add(subparsers)`` and ``main(args) -> exit code``."""
