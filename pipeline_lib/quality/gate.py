"""Run Great Expectations over data sets, write what it found, and stop the pipeline when it found something.

Two things are left behind: a JSON report that holds the same bytes for the same data (DVC hashes it), and Data Docs,
Great Expectations' own pages, for people (kept in MLflow, with times in them, so DVC does not hash them).
Its usage reports and progress bars are off: a gate never uses the network.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.errors import GateFailed
from pipeline_lib.startup import deferred, uncollected
from pipeline_lib.storage.atomic import write_json

if TYPE_CHECKING:
    import great_expectations as gx
    import pandas as pd
    import pyarrow as pa
    from great_expectations.data_context import EphemeralDataContext

    from pipeline_lib.quality.suites import Suite

EXAMPLE_ROWS = 5
"""Rows shown for each failed expectation."""
_MAX_VALUE_CHARS = 160
ROW = "number"
"""The column that says which row of its file a row is, from 0."""


@dataclass(frozen=True, slots=True)
class GatePart:
    """One data set and what is expected of it."""

    name: str
    """The file, as a person knows it."""
    frame: pd.DataFrame
    """What its rows are judged by; the column `number` numbers them, and row n is the n-th."""
    suite: Suite
    table: pa.Table | None = None
    """The rows' other columns, for examples."""

    def value(self, number: int, name: str) -> object:
        """A row's value in a column of the frame or, where that has none, of the table."""
        if name in self.frame.columns:
            return self.frame[name].iat[number]
        assert self.table is not None
        return self.table[name][number].as_py()

    def has(self, name: str) -> bool:
        """True for a column of the frame or of the table."""
        return name in self.frame.columns or (self.table is not None and name in self.table.column_names)


@dataclass(frozen=True, slots=True)
class Finding:
    """One expectation and how it came out."""

    meaning: str
    expectation: str
    column: str
    success: bool
    unexpected: int
    """Rows that break it; 0 for an expectation about the whole table."""
    observed: str
    """What was found where the expectation is about the whole table, or why it could not be computed."""
    examples: tuple[Mapping[str, str], ...]
    """The first rows that break it: number, id, and the columns that explain."""


def load_great_expectations() -> None:
    """Import Great Expectations with its usage reports off. It takes seconds, so start it early in a thread.

    One of its expectations draws a picture (altair) and compares distributions (scipy); no suite here has it.
    """
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with uncollected(), deferred("altair", "scipy.stats"):
        import great_expectations  # noqa: F401


def run_gate(stage: str, parts: Sequence[GatePart], report: Path, docs: Path) -> dict[str, int]:
    """Check every part; write the report and the Data Docs; return counts for the metrics.

    Args:
        stage: The gate's name.
        parts: What to check; all are checked before the gate decides.
        report: Where the JSON report goes.
        docs: Directory of the Data Docs; replaced.

    Raises:
        GateFailed: Says for each failed expectation what it means, how many rows break it, and shows some of them.
    """
    load_great_expectations()
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    findings = {part.name: _check(context, part) for part in parts}
    _render(context, docs)
    flat = [finding for found in findings.values() for finding in found]
    failed = sum(not finding.success for finding in flat)
    write_json(report, _as_report(stage, parts, findings))
    if failed:
        raise GateFailed(_message(stage, parts, findings))
    return {"rows": sum(len(part.frame) for part in parts), "expectations": len(flat), "failed": failed}


def _check(context: EphemeralDataContext, part: GatePart) -> list[Finding]:
    """Run one suite; the context keeps the result for the Data Docs."""
    import great_expectations as gx

    # The Data Docs make file names of these: a dot or a slash would break them.
    name = part.name.replace(".parquet", "").replace("/", " ")
    suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=part.suite))
    batch = context.data_sources.add_pandas(name).add_dataframe_asset("rows")
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(
            name=name, data=batch.add_batch_definition_whole_dataframe("all"), suite=suite
        )
    )
    outcome = definition.run(
        batch_parameters={"dataframe": part.frame},
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": [ROW]},
    )
    findings = [_finding(result, part) for result in outcome.results]
    return sorted(findings, key=lambda finding: (finding.expectation, finding.column, finding.meaning))


def _finding(result: gx.ExpectationValidationResult, part: GatePart) -> Finding:
    """What one expectation said, without the times and random names of Great Expectations."""
    config = result.expectation_config
    assert config is not None
    arguments, meta, details = config.kwargs, config.meta or {}, result.result
    numbers = sorted({int(entry[ROW]) for entry in details.get("unexpected_index_list") or ()})
    columns = arguments.get("column_list") or [arguments.get("column") or arguments.get("column_A") or ""]
    observed = "" if "unexpected_count" in details else _short(details.get("observed_value", ""))
    if not details:
        observed = f"could not be computed: {_reason(result.exception_info)}"
    shown = [name for name in dict.fromkeys([*columns, *meta.get("show", [])]) if part.has(name)]
    return Finding(
        meaning=str(meta.get("meaning", config.type)),
        expectation=str(config.type),
        column=", ".join(columns),
        success=bool(result.success),
        unexpected=len(numbers),
        observed=observed,
        examples=tuple(
            {
                ROW: str(number),
                **{
                    name: _short(part.value(number, name))
                    for name in dict.fromkeys(["id", *shown])
                    if part.has(name)
                },
            }
            for number in numbers[:EXAMPLE_ROWS]
        ),
    )


def _reason(info: Mapping[str, Any]) -> str:
    """The message of an exception that Great Expectations caught; it nests them by metric."""
    if "exception_message" in info:
        return str(info["exception_message"])
    return "; ".join(
        sorted({str(each.get("exception_message")) for each in info.values() if isinstance(each, Mapping)})
    )


def _short(value: object) -> str:
    """A value on one line."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "empty"
    text = value if isinstance(value, str) and value.strip() else repr(value)
    line = text.replace("\n", "\\n")
    return line if len(line) <= _MAX_VALUE_CHARS else f"{line[: _MAX_VALUE_CHARS - 1]}…"


def _render(context: EphemeralDataContext, docs: Path) -> None:
    """Write the Data Docs. A default site in the temporary directory is left out."""
    shutil.rmtree(docs, ignore_errors=True)
    for name in list(context.variables.data_docs_sites or {}):
        context.delete_data_docs_site(name)
    context.add_data_docs_site(
        "local",
        {
            "class_name": "SiteBuilder",
            "store_backend": {
                "class_name": "TupleFilesystemStoreBackend",
                "base_directory": str(docs.resolve()),
            },
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        },
    )
    context.build_data_docs()


def _as_report(
    stage: str, parts: Sequence[GatePart], findings: Mapping[str, Sequence[Finding]]
) -> dict[str, Any]:
    """The report: plain values in a fixed order."""
    return {
        "gate": stage,
        "success": all(finding.success for found in findings.values() for finding in found),
        "datasets": {
            part.name: {
                "rows": len(part.frame),
                "expectations": [
                    {
                        "meaning": finding.meaning,
                        "expectation": finding.expectation,
                        "column": finding.column,
                        "success": finding.success,
                        "unexpected": finding.unexpected,
                        "observed": finding.observed,
                        "examples": [dict(example) for example in finding.examples],
                    }
                    for finding in findings[part.name]
                ],
            }
            for part in parts
        },
    }


def _message(stage: str, parts: Sequence[GatePart], findings: Mapping[str, Sequence[Finding]]) -> str:
    """What the person reads: file, expectation, count, rows."""
    lines = []
    for part in parts:
        for finding in findings[part.name]:
            if finding.success:
                continue
            count = (
                f"{finding.unexpected} of {len(part.frame)} rows" if finding.unexpected else finding.observed
            )
            lines.append(
                f"{part.name}: expected that {finding.meaning} ({finding.expectation} on {finding.column or 'the table'}): "
                f"{count}"
            )
            lines += [
                "    row "
                + ", ".join(f"{key}={value}" for key, value in example.items()).removeprefix(f"{ROW}=")
                for example in finding.examples
            ]
    return f"{stage} refused the data.\n" + "\n".join(lines)
