"""The promotion rule: better where it counts, and no regression beyond the interval anywhere else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline_lib.errors import ConfigError
from pipeline_lib.registry.promotion import (
    RegistryPolicy,
    SuiteScore,
    decide,
    read_policy,
    score_from_text,
    score_to_text,
)

POLICY_FILE = Path(__file__).resolve().parents[3] / "mlflow" / "registry_policy.yaml"


@pytest.fixture(scope="module")
def policy() -> RegistryPolicy:
    return read_policy(POLICY_FILE)


def score(
    share: float, kind: str = "reasoning", problems: int = 100, k: int = 4, **rates: float
) -> SuiteScore:
    """A suite on which the first `share` of the problems is always solved."""
    solved = round(share * problems)
    counts = tuple([k] * solved + [0] * (problems - solved))
    return SuiteScore(kind, k, "same", counts, rates.get("format_rate", 1.0), rates.get("mixing_share", 0.0))


def test_a_clear_rise_is_promoted(policy: RegistryPolicy) -> None:
    decision = decide({"math": score(0.7)}, {"math": score(0.2)}, policy)
    assert decision.promote
    assert decision.primary.mean == pytest.approx(0.5)
    assert 0.35 < decision.primary.low < 0.5 < decision.primary.high < 0.65
    assert decision.reasons[0].startswith("mean pass@1 over the reasoning suites changed by +50.0 points")


def test_the_same_model_again_is_not_better(policy: RegistryPolicy) -> None:
    assert not decide({"math": score(0.5)}, {"math": score(0.5)}, policy).promote


def test_a_rise_within_the_noise_is_not_promoted(policy: RegistryPolicy) -> None:
    decision = decide({"math": score(0.51)}, {"math": score(0.50)}, policy)
    assert decision.primary.mean == pytest.approx(0.01)
    assert not decision.promote


def test_a_margin_can_be_asked(policy: RegistryPolicy) -> None:
    one, other = {"math": score(0.6)}, {"math": score(0.5)}
    assert decide(one, other, policy).promote
    assert not decide(one, other, policy, margin=0.2).promote


def test_a_regression_beyond_the_interval_stops_promotion_and_is_named(policy: RegistryPolicy) -> None:
    base = {"math": score(0.2), "general": score(0.8, "general")}
    zero = {"math": score(0.7), "general": score(0.3, "general")}
    decision = decide(zero, base, policy)
    assert not decision.promote
    assert any(reason.startswith("general: pass@1 fell by -50.0 points") for reason in decision.reasons)
    slightly = {"math": score(0.7), "general": score(0.79, "general")}
    assert decide(slightly, base, policy).promote


@pytest.mark.parametrize("rates", [{"format_rate": 0.9}, {"mixing_share": 0.3}])
def test_a_worse_rate_stops_promotion(policy: RegistryPolicy, rates: dict[str, float]) -> None:
    decision = decide({"math": score(0.7, **rates)}, {"math": score(0.2)}, policy)
    assert not decision.promote
    assert any(next(iter(rates)) in reason for reason in decision.reasons)


def test_other_questions_are_compared_without_pairing(policy: RegistryPolicy) -> None:
    one, other = score(0.55), score(0.5)
    paired = decide({"math": one}, {"math": other}, policy).primary
    unpaired = decide({"math": replace(one, questions="others")}, {"math": other}, policy).primary
    assert unpaired.high - unpaired.low > 2 * (paired.high - paired.low)


def test_nothing_in_common_is_an_error(policy: RegistryPolicy) -> None:
    with pytest.raises(ConfigError, match="no reasoning suite is common"):
        decide({"math": score(0.5)}, {"general": score(0.5, "general")}, policy)


def test_a_score_survives_its_tag() -> None:
    assert score_from_text(score_to_text(score(0.3))) == score(0.3)


def test_a_bad_policy_names_the_field(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY_FILE.read_text().replace("kind: reasoning", "kind: maths"))
    with pytest.raises(ConfigError, match=r"primary\.kind"):
        read_policy(tmp_path / "policy.yaml")
    with pytest.raises(ConfigError, match="no such file"):
        read_policy(tmp_path / "none.yaml")
