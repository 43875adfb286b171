"""Values of secret variables leave no line; words that only look like it stay."""

from __future__ import annotations

from pipeline_lib.orchestration.redaction import Redactor


def test_secrets_go_and_the_rest_stays():
    environment = {
        "AWS_SECRET_ACCESS_KEY": "abcdefgh12",  # pragma: allowlist secret
        "AWS_SESSION_TOKEN": "abcdefgh12345",
        "HF_TOKEN": "hf-longer-than-eight",
        "DB_PASSWORD": "short",  # pragma: allowlist secret
        "TOKENIZERS_PARALLELISM": "trueorfalse",
        "AWS_DEFAULT_REGION": "us-east-1-region",
    }
    redact = Redactor(environment)
    assert redact("a abcdefgh12 b abcdefgh12345 c hf-longer-than-eight") == "a *** b *** c ***"
    assert redact("short trueorfalse us-east-1-region") == "short trueorfalse us-east-1-region"
