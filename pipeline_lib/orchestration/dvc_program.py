"""`python -m pipeline_lib.orchestration.dvc_program <arguments of dvc>`: dvc, that replaces dvc.lock and never rewrites it in place.

Stages of one run end side by side, and what a stage pushes, checks and links to stands in dvc.lock. DVC (3.67) empties the file and
writes it piece by piece, for up to a second with thirty stages: whoever reads it then finds some of them, as valid YAML. A kill in
that second leaves it so. Two functions of DVC's own are replaced for that, in the process that orchestration starts; DVC's
lock still says who writes.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from dvc.utils.serialize import _common, _yaml

from pipeline_lib.storage.atomic import write_bytes

_for_update = _yaml.parse_yaml_for_update


def whole_files() -> None:
    """From now on, in this process, dvc replaces the files that it writes."""
    _common._dump_data = _replace
    _yaml.parse_yaml_for_update = _parse_for_update


def _replace(
    path: str, data: Any, dumper: Callable[[Any, TextIO], Any], fs: Any = None, **options: Any
) -> None:
    text = io.StringIO()
    dumper(data, text, **options)
    write_bytes(Path(path), text.getvalue().encode())


def _parse_for_update(text: str, path: str) -> Any:
    """Comments are kept in what people write. dvc.lock has none: read as DVC reads it everywhere else, it takes a tenth of the time."""
    return _yaml.parse_yaml(text, path) if Path(path).name == "dvc.lock" else _for_update(text, path)


def main() -> int:
    """Be dvc. Returns its exit code."""
    from dvc.cli import main as dvc

    whole_files()
    return int(dvc(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
