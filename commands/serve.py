"""``app.py serve``: the page."""

import argparse
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands import exits
from commands.engines import engine_for
from commands.visitors import END_S, FILES, leave_in, visitors_folder
from kit.texts import LANGUAGES, language_from
from loader.allocator import relaunch
from loader.errors import InputError

if TYPE_CHECKING:
    from kit.parts.context import Admin
    from loader.engine import Engine

PORT, HOST_NAME = 7860, "127.0.0.1"


def add(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "serve", help="serve the page (what happens without a command)"
    )
    parser.add_argument("--port", type=int, help=f"default: {PORT}, or GRADIO_SERVER_PORT")
    parser.add_argument("--host-name", help=f"address to listen on; default: {HOST_NAME}, or GRADIO_SERVER_NAME")
    parser.add_argument("--share", action="store_true", help="also through a public link of Gradio's (needs a network)")
    parser.add_argument("--language", choices=tuple(LANGUAGES), help="of the page; default: ANYHOST_LANGUAGE, else en")
    parser.add_argument("--ray", action="store_true", help="compute on Ray Serve replicas, here or at RAY_ADDRESS")
    parser.add_argument("--replicas", help="with --ray: how many, or from-to (default: 1)")
    parser.add_argument("--cores", type=int, help="with --ray: processor cores of a replica")
    parser.add_argument("--allocator", help="jemalloc, tcmalloc or a library's path: started anew with it preloaded")
    parser.set_defaults(main=main)


def main(args: Any) -> int:
    if args.allocator:
        relaunch(args.allocator)
    port = args.port if args.port is not None else _port_from(os.environ.get("GRADIO_SERVER_PORT", ""))
    host_name = args.host_name or os.environ.get("GRADIO_SERVER_NAME") or HOST_NAME
    language = args.language or language_from(os.environ)
    if not args.ray and (args.replicas or args.cores):
        raise InputError("--replicas and --cores go with --ray")
    _check_free(host_name, port)
    # Read by Gradio and the Hub's library when they are imported: nothing is reported to anyone.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    # Gradio's usual folder is shared by all users of a machine.
    with visitors_folder() as folder:
        replicas = (args.replicas or "1") if args.ray else ""
        with engine_for(replicas=replicas, cores=args.cores) as engine:
            return _serve(engine, (host_name, port), language, share=args.share, folder=folder)


def _serve(engine: "Engine", address: tuple[str, int], language: str, *, share: bool, folder: Path) -> int:
    from loader.acceptance import Record
    from page.build import CLEAN_EVERY, KEEP, build, launch_options
    from page.cleaning import Cleaner, kept_always

    host_name, port = address
    admin = administrators(host_name, share=share, environ=os.environ)
    if admin == "local":
        # Whoever accepted terms on this machine's command line is the one who sits before its page.
        engine.accepted |= Record(engine.folders.cache).names()
    page = build(engine, language=language, admin=admin)
    cleaner = Cleaner(folder / FILES, every=CLEAN_EVERY, age=KEEP, keep=kept_always(page))
    stop = _ending(folder)
    try:
        cleaner.start()
        _, url, public = page.launch(
            server_name=host_name, server_port=port, share=share, prevent_thread_lock=True, **launch_options()
        )
        print(f"Anyhost is at {url}" + (f" and {public}" if public else "") + "  (Ctrl+C ends it)", flush=True)
        stop.wait()
    finally:
        cleaner.close()
        # Whoever waits or computes is told before the page is taken from them.
        engine.close()
        page.close(verbose=False)
    return exits.DONE


def _ending(folder: Path) -> threading.Event:
    """Set by the first SIGTERM or Ctrl+C, which bounds how long ending takes; a second one leaves at once."""
    stop = threading.Event()

    def end(*_: object) -> None:
        leave_in(0.0 if stop.is_set() else END_S, folder)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    return stop


def administrators(host_name: str, *, share: bool, environ: Mapping[str, str]) -> "Admin":
    """Who may delete fetched weights from the page: ANYHOST_ADMIN=1 lets everybody, else it takes this machine."""
    if environ.get("ANYHOST_ADMIN", "").strip() == "1":
        return "everybody"
    return "local" if host_name in ("127.0.0.1", "::1", "localhost") and not share else "nobody"


def _port_from(text: str) -> int:
    if text and not text.isdecimal():
        raise InputError(f"GRADIO_SERVER_PORT={text}: a port is a number from 1 to 65535")
    return int(text or PORT)


def _check_free(host_name: str, port: int) -> None:
    """Say that a port is taken before anything heavy is loaded.

    Raises:
        InputError: it is, or may not be used.
    """
    if not 0 < port < 2**16:
        raise InputError(f"port {port} does not exist: choose one from 1 to 65535")
    family = socket.AF_INET6 if ":" in host_name else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host_name, port))
        except OSError as error:
            raise InputError(
                f"{host_name} port {port} cannot be listened on ({error.strerror}): choose another with --port"
            ) from error
