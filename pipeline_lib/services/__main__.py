"""`python -m pipeline_lib.services up|down|status|demo`: see `make help`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline_lib.errors import PipelineError


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; return the exit code: 0, 1 (failed) or 2 (bad input)."""
    parser = argparse.ArgumentParser(prog="python -m pipeline_lib.services", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, text in (
        ("up", "start Airflow, MLflow and the file server on free loopback ports"),
        ("down", "stop everything that `up` or `demo` started"),
        ("status", "say what runs where"),
        ("demo", "up, then run the whole pipeline and show it"),
    ):
        command = verbs.add_parser(verb, help=text, description=text)
        command.add_argument("--root", type=Path, default=Path.cwd(), help="checkout (default: here)")
        if verb in ("up", "demo"):
            command.add_argument(
                "--stack", choices=("demo", "production"), default="demo", help="which stack (default: demo)"
            )
        if verb == "demo":
            command.add_argument("--profile", help="a file of profiles/ (default: micro)")
            command.add_argument(
                "--set", action="append", default=[], metavar="a.b=value", help="override a parameter"
            )
            end = command.add_mutually_exclusive_group()
            end.add_argument(
                "--keep", action="store_true", help="leave the services up at the end (the default)"
            )
            end.add_argument("--stop", action="store_true", help="stop the services at the end")
    options = parser.parse_args(arguments)
    options.root = options.root.resolve()
    try:
        return _run(options)
    except PipelineError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\ninterrupted; the services go on: `make down` stops them", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    from pipeline_lib.services import stack

    if options.verb == "up":
        stack.up(options.root, say=lambda line: print(line, flush=True), kind=stack.Kind(options.stack))
        return 0
    if options.verb == "down":
        stack.down(options.root)
        return 0
    if options.verb == "status":
        return _status(stack.load(options.root))
    from pipeline_lib.services.demo import demo

    kind = stack.Kind(options.stack)
    return demo(options.root, kind, profile=options.profile, assignments=options.set, stop=options.stop)


def _status(found: object) -> int:
    from pipeline_lib.services.stack import Stack

    if not isinstance(found, Stack) or not found.alive():
        print("not running: `make up` starts the services")
        return 1
    print(f"Airflow {found.airflow}\nMLflow  {found.mlflow}\nfiles   {found.files}\nstack   {found.kind}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
