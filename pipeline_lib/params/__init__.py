"""Parameters: typed, frozen, extra fields forbidden (design §2). See `root` for how they are composed."""

from pipeline_lib.params.data import (
    CollectColdStartParams,
    CollectDistillationParams,
    EvaluateParams,
    GateParams,
    PrepareBaseModelParams,
    PrepareProblemsParams,
    RegisterModelsParams,
    ReportParams,
    SampleRejectionsParams,
    SelectHardProblemsParams,
    SourceSpec,
)
from pipeline_lib.params.engine import (
    EngineParams,
    KubernetesParams,
    RunParams,
    ServersParams,
    SlurmParams,
    VllmParams,
)
from pipeline_lib.params.root import Params, build_params, compose, load_params, parse_assignment
from pipeline_lib.params.students import StudentParams
from pipeline_lib.params.training import (
    AllTaskGrpoParams,
    GrpoParams,
    RewardModelParams,
    RewardWeights,
    SftParams,
    StudentGrpoParams,
)

__all__ = [
    "AllTaskGrpoParams",
    "CollectColdStartParams",
    "CollectDistillationParams",
    "EngineParams",
    "EvaluateParams",
    "GateParams",
    "GrpoParams",
    "KubernetesParams",
    "Params",
    "PrepareBaseModelParams",
    "PrepareProblemsParams",
    "RegisterModelsParams",
    "ReportParams",
    "RewardModelParams",
    "RewardWeights",
    "RunParams",
    "SampleRejectionsParams",
    "SelectHardProblemsParams",
    "ServersParams",
    "SftParams",
    "SlurmParams",
    "SourceSpec",
    "StudentGrpoParams",
    "StudentParams",
    "VllmParams",
    "build_params",
    "compose",
    "load_params",
    "parse_assignment",
]
