"""A student: one file in profiles/students/. Adding a student is adding a file."""

from __future__ import annotations

from pydantic import Field

from pipeline_lib.params.data import PrepareBaseModelParams
from pipeline_lib.params.training import SftParams


class StudentParams(SftParams):
    """Where a student starts and how it is distilled (v2 Table 6: 2-3 epochs, cosine to 1/10, batch 64)."""

    description: str = Field("", description="One line for the report.")
    init: PrepareBaseModelParams = Field(description="The student's own base model.")
