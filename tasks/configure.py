"""Write params.yaml from a profile and overrides: `python -m tasks.configure --profile smollm2 --set run.seed=3`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline_lib.errors import PipelineError


def main() -> int:
    """Exit 0 and write params.yaml, or exit 2 with one line that says what to change."""
    parser = argparse.ArgumentParser(prog="python -m tasks.configure", description=__doc__)
    parser.add_argument("--profile", default="micro", help="a file of profiles/ (default: micro)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="section.field=value", dest="assignments"
    )
    arguments = parser.parse_args()
    import yaml

    from pipeline_lib.params import compose, parse_assignment

    root = Path.cwd()
    try:
        tree = compose(arguments.profile, dict(map(parse_assignment, arguments.assignments)), root=root)
    except PipelineError as error:
        print(f"configure: {error}", file=sys.stderr)
        return error.exit_code
    (root / "params.yaml").write_text(
        yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
