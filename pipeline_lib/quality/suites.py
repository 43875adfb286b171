"""What is expected of each data set, in Great Expectations' own words.

`meta["meaning"]` is the sentence a person reads when it fails, `meta["show"]` the columns that explain a row.
The bounds are a gate's parameters (`params.yaml`, section `validate_*`).
"""

from __future__ import annotations

from typing import Any

import great_expectations.expectations as gxe
from great_expectations.expectations.expectation import Expectation

from pipeline_lib.params import GateParams
from pipeline_lib.types import Domain, Outcome, Split

Suite = list[Expectation]

_MAX_PROMPT_CHARS = 20_000


def _means(meaning: str, *show: str) -> dict[str, Any]:
    return {"meaning": meaning, "show": list(show)}


def schema_suite() -> Suite:
    """Of a frame with one row for each column that the layout has: `column`, `wanted`, `found`."""
    return [
        gxe.ExpectColumnValuesToNotBeNull(
            column="found", meta=_means("every column of the layout is there", "column", "wanted")
        ),
        gxe.ExpectColumnPairValuesToBeEqual(
            column_A="found",
            column_B="wanted",
            ignore_row_if="either_value_is_missing",
            meta=_means("every column has the layout's type", "column", "wanted", "found"),
        ),
    ]


def _shared(bounds: GateParams) -> Suite:
    """What every data set must hold: enough rows, ids, and no empty value where one is needed."""
    return [
        gxe.ExpectTableRowCountToBeBetween(
            min_value=bounds.min_rows, meta=_means(f"there are at least {bounds.min_rows} rows")
        ),
        gxe.ExpectColumnValuesToBeUnique(column="id", meta=_means("ids are unique")),
        gxe.ExpectColumnValuesToBeNull(
            column="empty_columns", meta=_means("every needed value is given and not blank", "empty_columns")
        ),
    ]


def _no_overlap() -> Expectation:
    return gxe.ExpectColumnValuesToBeNull(
        column="benchmark_overlap",
        meta=_means("nothing is in a benchmark too", "benchmark_overlap"),
    )


def _share_of_classes(column: str, name: str, bounds: GateParams) -> Expectation:
    return gxe.ExpectColumnValuesToBeBetween(
        column=column,
        min_value=bounds.min_domain_share,
        max_value=1.0,
        meta=_means(f"each {name} holds at least {bounds.min_domain_share:.0%} of the rows", name, column),
    )


def _language(bounds: GateParams, *show: str) -> Expectation:
    return gxe.ExpectColumnValuesToBeBetween(
        column="target_language_share",
        min_value=bounds.min_language_share,
        max_value=1.0,
        meta=_means(
            f"at least {bounds.min_language_share:.0%} of the words are in the target language", *show
        ),
    )


def _length(column: str, most: int, *show: str) -> Expectation:
    return gxe.ExpectColumnValuesToBeBetween(
        column=column, min_value=1, max_value=most, meta=_means(f"{column} is 1 to {most}", *show)
    )


def problem_suite(bounds: GateParams, split: Split) -> Suite:
    """A problem set: see `pipeline_lib.quality.evidence.ProblemEvidence` for the computed columns."""
    return [
        *_shared(bounds),
        gxe.ExpectColumnValuesToBeInSet(
            column="domain",
            value_set=[str(domain) for domain in Domain],
            meta=_means("the domain is known", "domain"),
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="split", value_set=[str(split)], meta=_means(f"every row is of the {split} split", "split")
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="answer_form",
            value_set=["number", "math", "text"],
            meta=_means("there is an answer of the source's usual form", "answer", "answer_form"),
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="answer_parses",
            value_set=[True],
            meta=_means(
                "our verifier accepts the ground truth as an answer to its own problem",
                "answer",
                "failed_test",
            ),
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="reference_verdict",
            value_set=[str(Outcome.CORRECT)],
            meta=_means("the tests run and the reference solution passes them", "reference", "failed_test"),
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="difficulty",
            min_value=0.0,
            max_value=1.0,
            meta=_means("difficulty is a rate", "difficulty"),
        ),
        _no_overlap(),
        _language(bounds, "prompt"),
        _length("prompt_chars", _MAX_PROMPT_CHARS),
        _share_of_classes("domain_share", "domain", bounds),
    ]


def sample_suite(bounds: GateParams, language: str) -> Suite:
    """Cold-start, rejection or distillation data: see `SampleEvidence` for the computed columns."""
    return [
        *_shared(bounds),
        gxe.ExpectCompoundColumnsToBeUnique(
            column_list=["problem_id", "response"],
            meta=_means("no response to a problem is there twice", "response"),
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="domain",
            value_set=[str(domain) for domain in Domain],
            meta=_means("the domain is known", "domain"),
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="prompt_matches",
            value_set=[True],
            meta=_means("the problem exists and its prompt is this one", "problem_id", "prompt"),
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="well_formed",
            value_set=[True],
            meta=_means("the whole response is <think>…</think><answer>…</answer>", "response"),
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="verdict",
            value_set=[str(Outcome.CORRECT)],
            meta=_means("only samples with a correct verdict were kept", "verdict"),
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="reverified",
            value_set=[str(Outcome.CORRECT)],
            meta=_means(
                "verified again, the verdict is still correct", "problem_id", "reverified", "response"
            ),
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="language",
            value_set=[language],
            meta=_means(f"the reasoning is in {language}", "language"),
        ),
        _language(bounds, "response"),
        gxe.ExpectColumnValuesToBeBetween(
            column="repetition",
            min_value=0.0,
            max_value=bounds.max_repetition,
            meta=_means(
                f"at most {bounds.max_repetition:.0%} of the 8-word phrases repeat", "repetition", "response"
            ),
        ),
        _length("response_chars", bounds.max_response_chars),
        _no_overlap(),
        _share_of_classes("domain_share", "domain", bounds),
    ]


def preference_suite(bounds: GateParams) -> Suite:
    """Preference pairs: see `PreferenceEvidence`."""
    return [
        *_shared(bounds),
        gxe.ExpectColumnValuesToBeInSet(
            column="differ", value_set=[True], meta=_means("the two responses differ", "chosen", "rejected")
        ),
        _no_contradiction(),
        _language(bounds, "chosen"),
        _length("response_chars", bounds.max_response_chars),
        _no_overlap(),
        _share_of_classes("class_share", "category", bounds),
    ]


def safety_suite(bounds: GateParams) -> Suite:
    """Safety examples: see `SafetyEvidence`."""
    return [
        *_shared(bounds),
        gxe.ExpectColumnDistinctValuesToContainSet(
            column="safe", value_set=[True, False], meta=_means("there are safe and unsafe examples")
        ),
        _no_contradiction(),
        _length("response_chars", bounds.max_response_chars),
        _no_overlap(),
        _share_of_classes("class_share", "safe", bounds),
    ]


def _no_contradiction() -> Expectation:
    return gxe.ExpectColumnValuesToBeNull(
        column="contradicts", meta=_means("no other row says the opposite", "contradicts", "prompt")
    )
