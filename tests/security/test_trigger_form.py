"""A hostile trigger form: what a person types never becomes a command, an option or a path outside the run's own worktree.

Every value is either refused in one line that names the field, or it is a plain value of the run: inside `runs/<name>/`, on
branch `run/<name>`. git is a real one, behind a script that writes down how it was called.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.errors import PipelineError
from pipeline_lib.orchestration.bounds import OF_THE_PROFILE
from pipeline_lib.orchestration.form import overrides_from_form, write_params
from pipeline_lib.orchestration.models import select_models
from pipeline_lib.orchestration.worktree import create_run, finished_run, run_name, worktree_path
from pipeline_lib.params import build_params, compose
from pipeline_lib.params.root import read_yaml, set_dotted

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fixtures" / "tiny_pipeline"))
from build_tiny import build

PROJECT = Path(__file__).resolve().parents[2]

SHELL = (
    *(
        "; touch owned",
        "$(touch owned)",
        "`touch owned`",
        "x && touch owned",
        "x | tee owned",
        "x > owned",
        "x\ntouch owned",
    ),
    *(
        "${IFS}touch",
        "*",
        "?",
        "~",
        "!!",
        "'",
        '"',
        "\\",
        "a\tb",
        "a b",
        "\x00",
        "a\x00b",
        "\x1b[2J",
        "\r\n",
        "a\n",
    ),
)
OPTIONS = (
    "--upload-pack=touch owned",
    "--exec=touch owned",
    "-c",
    "--help",
    "-",
    "--",
    "--output=/tmp/owned",
    "-rf",
)
PATHS = (
    "../../owned",
    "../owned",
    "/tmp/owned",
    "/etc/shadow",
    "a/../../b",
    ".",
    "..",
    ".git/hooks/post-commit",
    "C:\\owned",
)
TEMPLATES = (
    "{{ 7 * 7 }}",
    "{{ params.seed }}",
    "{% import os %}",
    "${run.seed}",
    "${item.student}",
    "%(x)s",
    "{0.__class__}",
)
GIT = (
    "HEAD:..",
    "HEAD..main",
    "@{",
    "@{-1}",
    "main@{yesterday}",
    "HEAD^{/x}",
    ":/x",
    "^main",
    "main:params.yaml",
    "refs/../x",
)
ODD = (
    "",
    " ",
    "é",
    "名",
    "ａ",
    "\u202eevil",
    "\u200b",
    "\ud800",
    "x" * 300,
    "x" * 100_000,
    "𝟏",
    "run.lock/",
    "a//b",
)
HOSTILE = (*SHELL, *OPTIONS, *PATHS, *TEMPLATES, *GIT, *ODD)


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("form") / "project")


@pytest.fixture
def git_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[list[str]]]:
    """git behind a script that appends its arguments, one JSON list a call."""
    git = shutil.which("git")
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "git"
    script.write_text(
        f"#!{sys.executable} -IS\nimport json, os, sys\n"
        f"with open({str(tmp_path / 'calls')!r}, 'a') as file:\n    file.write(json.dumps(sys.argv[1:]) + '\\n')\n"
        f"os.execv({git!r}, ['git', *sys.argv[1:]])\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    (tmp_path / "calls").touch()
    return lambda: [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]


def _refused(action: Callable[[], object]) -> bool:
    """True for a refusal, which has to be one short line; any other exception is a failure of the test."""
    try:
        action()
    except PipelineError as error:
        return _is_one_line(error)
    return False


def _is_one_line(error: PipelineError) -> bool:
    assert len(str(error).splitlines()) == 1, str(error)
    return True


def _traces(root: Path) -> list[str]:
    places = (root, root.parent, root / "runs", root / ".git" / "hooks", Path("/tmp"), Path.cwd())
    return sorted(str(p) for place in places if place.is_dir() for p in place.iterdir() if "owned" in p.name)


@pytest.mark.parametrize("dag", ["deepseek_r1", "distill"])
def test_a_run_id_is_a_directory_of_runs_or_refused(dag: str) -> None:
    accepted = set()
    run_ids = (*HOSTILE, "x.lock.lock", "x..lock", "x.lock..lock", ".lock", "HEAD", "@", "y" * 190)
    for run_id in run_ids:
        try:
            name = run_name(dag, run_id)
        except PipelineError as error:
            _is_one_line(error)
            continue
        accepted.add(name)
        assert worktree_path(PROJECT, name).resolve().parent == PROJECT / "runs", run_id
        assert not name.startswith("-")
        assert name.isprintable()
    branches = [f"refs/heads/run/{name}" for name in accepted]
    for branch in branches:
        assert subprocess.run(["git", "check-ref-format", branch], check=False).returncode == 0, branch
    assert len(accepted) > 20  # `; touch owned` is a fine name once it reads touch-owned


def test_runs_of_hostile_ids_stay_below_runs(repo: Path) -> None:
    outside = _traces(repo)
    for run_id in ("../../owned", "$(touch owned)\n", "--upload-pack=touch owned", "{{ 7 * 7 }}"):
        name = run_name("deepseek_r1", run_id)
        create_run(repo, name, profile="micro", overrides={})
        assert (repo / "runs" / name / ".run" / "run.json").is_file()
    assert [t for t in _traces(repo) if t not in outside and "/runs/" not in t] == []
    assert (
        subprocess.run(["git", "status", "--porcelain"], cwd=repo, capture_output=True, check=True).stdout
        == b""
    )


def test_a_revision_is_a_commit_or_refused(repo: Path, git_calls: Callable[[], list[list[str]]]) -> None:
    before = _traces(repo)
    for revision in HOSTILE:
        assert _refused(
            lambda revision=revision: create_run(repo, "rev", profile=None, overrides={}, revision=revision)
        )
        if revision:  # an empty one means: the latest finished run
            assert _refused(lambda revision=revision: finished_run(repo, revision))
        assert not (repo / "runs" / "rev").exists()
    assert _traces(repo) == before
    for call in git_calls():
        assert not any(value in call for value in HOSTILE if value), call


def test_git_never_takes_a_revision_for_an_option(
    repo: Path, git_calls: Callable[[], list[list[str]]]
) -> None:
    """Also one that passes the check of its characters: it comes after --end-of-options, and git then sees only the commit."""
    revision = "main~0"
    commit = create_run(repo, "plain", profile=None, overrides={}, revision=revision).commit
    assert len(commit) == 40
    calls = [call for call in git_calls() if any(revision in word for word in call)]
    assert calls
    for call in calls:
        assert revision not in " ".join(call[: call.index("--end-of-options")]), call
    assert [
        "worktree",
        "add",
        "--quiet",
        "-b",
        "run/plain",
        str(repo / "runs" / "plain"),
        commit,
    ] in git_calls()


NAME_FIELDS = ("students", "suites", "models")


@pytest.mark.parametrize("field", NAME_FIELDS)
def test_names_are_names_or_refused(field: str) -> None:
    for value in HOSTILE:
        if (
            not set(value) - {"x"} or value == "HEAD..main"
        ):  # one path component of plain letters; as a student it is unknown
            continue
        assert _refused(lambda value=value: overrides_from_form({field: [value]})), value
    for value in (["r1", 3], ["r1", None], [["r1"]], [{"r1": 1}], {"r1": 1}, 7, "r1"):
        assert _refused(lambda value=value: overrides_from_form({field: value})), value
    too_long = {"students": "distill.students", "suites": "evaluate.suites", "models": "evaluate.models"}[
        field
    ]
    assert _refused(lambda: compose("micro", {too_long: ["x" * 300]}, root=PROJECT))


OVERRIDES: tuple[Mapping[str, Any], ...] = (
    *(
        {key: 1}
        for key in (
            "__class__",
            "run.__class__",
            "run.__class__.__init__",
            "__proto__.seed",
            "run..seed",
            ".run.seed",
        )
    ),
    *(
        {key: 1}
        for key in (
            "run.seed.",
            "",
            ".",
            "../params",
            "/etc/passwd",
            "run/seed",
            "run.seed\n",
            "run.seed;x",
            "students",
        )
    ),
    *(
        {key: 1}
        for key in (
            "students.qwen-xs",
            "run",
            "engine",
            "engine.slurm",
            "nowhere.steps",
            "*",
            "run.*",
            "{{ run }}",
        )
    ),
    *({"run.seed": value} for value in ("x", "{{ 1 }}", [1], {"a": 1}, -1, 2**70, None, "1; touch owned")),
    *({"run.profile": value} for value in HOSTILE),
    *({"engine.launcher": value} for value in (*PATHS, *OPTIONS, *SHELL)),
    *({"collect_distillation.teacher": value} for value in HOSTILE),
    *({"train_student_rl.student": value} for value in HOSTILE),
    *({"register_models.prefix": value} for value in HOSTILE),
    *({"register_models.policy": value} for value in HOSTILE),
    *(
        {"register_models.policy": value}
        for value in ("/etc/x.yaml", "../x.yaml", "a/../../x.yaml", ".run/x.yaml", "a//x.yaml", "x.yaml\n")
    ),
    *({"prepare_problems.sources": [{"kind": value, "role": "train"}]} for value in HOSTILE),
    *({"engine.slurm.partition": value} for value in ("a\nrm -rf /", "a b", "a --output=/x", "'", "a\rb")),
    *({"engine.slurm.account": value} for value in ("a\ntouch owned", 'a"')),
    *(
        {"engine.slurm.options": [value]}
        for value in (
            "--exclusive\ntouch owned",
            "--output=/etc/owned",
            "--out=/x",
            "-o/x",
            "-D/",
            "--chdir=/",
            "--wrap=id",
            "-Qo/tmp/owned",
            "-HD/",
            "-a0-9",
            "--array=0-9",
            "--arr=0-9",
            "--uid=0",
            "--gid=0",
            "--get-user-env",
            "--export=LD_PRELOAD=/tmp/x.so",
            "--export-file=/etc/passwd",
            "--error=/x",
            "--input=/etc/shadow",
            "--bbf=/etc/passwd",
            "--container=/x",
            "--mail-user=x@example.com",
            "--clusters=other",
            "--no-requeue",
            "x",
            "",
        )
    ),
    {"engine.slurm.options": ["--exclusive --output=/x"]},
    {"engine.slurm.options": "--exclusive"},
)


def test_overrides_are_parameters_or_refused() -> None:
    micro = read_yaml(PROJECT / "params.yaml")

    def build(overrides: Mapping[str, Any]) -> None:
        """What `compose` does, with the file read once."""
        tree = dict(micro)
        for dotted, value in overrides.items():
            set_dotted(tree, dotted, value)
        build_params(tree, root=PROJECT)

    build(
        {
            "engine.slurm.options": ["--exclusive", "--constraint=h100", "--qos=high"],
            "engine.slurm.partition": "gpu",
        }
    )
    assert [override for override in OVERRIDES if not _refused(lambda o=override: build(o))] == []


def test_a_profile_is_a_file_of_profiles_or_refused() -> None:
    for profile in HOSTILE:
        assert _refused(lambda profile=profile: compose(profile, {}, root=PROJECT)), profile


@pytest.mark.parametrize(
    ("profile", "overrides"),
    [
        ("../../etc/passwd", {}),
        ("micro", {"run.seed": "{{ 7 * 7 }}"}),
        ("micro", {"report.title": "\ud800"}),
        ("micro", {"__class__.__base__": 1}),
        ("micro", {"x" * 100_000: 1}),
        ("micro\x00", {}),
    ],
    ids=["path", "template", "surrogate", "dunder", "huge", "NUL"],
)
def test_the_process_that_writes_params_refuses_too(
    repo: Path, profile: str, overrides: dict[str, Any]
) -> None:
    """The check is made by the code of the commit that the run starts from, in a process of its own."""
    before = (repo / "params.yaml").read_bytes()
    assert _refused(lambda: write_params(repo, profile, overrides))
    assert (repo / "params.yaml").read_bytes() == before


def test_text_that_is_allowed_stays_text(tmp_path: Path, repo: Path) -> None:
    """A title may hold anything; it comes out of params.yaml as it went in, and is no YAML, no template and no key."""
    title = "{{ 7 * 7 }}\n!!python/object/apply:os.system ['touch owned']\nrun: {seed: 1}\n$(touch owned) ${run.seed}"
    create_run(repo, "title", profile="micro", overrides={"report.title": title})
    import yaml

    tree = yaml.safe_load((repo / "runs/title/params.yaml").read_text(encoding="utf-8"))
    assert tree["report"]["title"] == title
    assert tree["run"]["seed"] == 7


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory of somebody else, with a file that a trainer would take for its own and remove."""
    folder = tmp_path / "owned"
    folder.mkdir()
    (folder / "rollout-weights-0-1.safetensors").write_bytes(b"not yours")
    return folder


def _require_refused(repo: Path, overrides: Mapping[str, Any], words: str) -> None:
    """`create_run` refuses in one line, and nothing of the run is left."""
    with pytest.raises(PipelineError, match=words) as refusal:
        create_run(repo, "bounded", profile="micro", overrides=overrides)
    _is_one_line(refusal.value)
    assert not (repo / "runs" / "bounded").exists()
    branches = subprocess.run(
        ["git", "branch", "--list", "run/bounded"], cwd=repo, capture_output=True, check=True
    )
    assert branches.stdout == b""


def test_weights_are_written_in_the_runs_own_worktree_or_where_the_operator_says(
    repo: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing set: the default is the safe one. With a list: that and no more."""
    monkeypatch.delenv("R1_ALLOWED_DIRS", raising=False)
    other = repo / "runs" / "other"
    create_run(repo, "other", profile="micro", overrides={})
    (repo / "link").symlink_to(outside)
    places = (str(outside), "/", "..", str(other), str(repo), "../../link", ".run", ".git", ".dvc/cache")
    words = r"engine\.servers\.weights_dir = .*whoever runs this worker lists it in R1_ALLOWED_DIRS"
    for value in places:
        _require_refused(repo, {"engine.servers.weights_dir": value}, words)
    _require_refused(repo, {"engine.servers": {"weights_dir": str(outside)}}, words)
    _require_refused(repo, {"engine.servers.weights_dir": "a\0b"}, r"engine\.servers\.weights_dir")
    (repo / "link").unlink()
    assert len(list(outside.iterdir())) == 1
    monkeypatch.setenv("R1_ALLOWED_DIRS", str(outside / "shared"))
    _require_refused(repo, {"engine.servers.weights_dir": str(outside)}, words)
    create_run(repo, "own", profile="micro", overrides={"engine.servers.weights_dir": "models"})
    create_run(
        repo, "listed", profile="micro", overrides={"engine.servers.weights_dir": str(outside / "shared/a")}
    )


def test_weights_are_sent_to_servers_that_the_operator_lists(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("R1_ALLOWED_DIRS", raising=False)
    asked = {"engine.servers.addresses": ["evil.example:80"], "engine.servers.weights_dir": "models"}
    _require_refused(repo, asked, r"engine\.servers\.addresses = 'evil.example:80'.*R1_ROLLOUT_SERVERS")
    monkeypatch.setenv("R1_ROLLOUT_SERVERS", "evil.example:80")
    create_run(repo, "servers", profile="micro", overrides=asked)


def test_a_stage_of_a_run_is_held_whatever_its_parameters_say(
    repo: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second lock: the stage itself, in the environment that `runner` gives it. Only who runs a stage by hand names any place."""
    from pipeline_lib.orchestration.runner import stage_environment
    from pipeline_lib.storage.allowed import require_allowed, require_weights_dir

    monkeypatch.delenv("R1_ALLOWED_DIRS", raising=False)
    monkeypatch.delenv("R1_DATA_DIR", raising=False)
    tree = repo / "runs" / "held"
    assert require_weights_dir(str(outside), tree) == outside
    assert require_allowed(outside, repo) == outside
    monkeypatch.setenv("R1_ALLOWED_DIRS", stage_environment(tree, "s", {})["R1_ALLOWED_DIRS"])
    with pytest.raises(PipelineError, match="weights_dir"):
        require_weights_dir(str(outside), tree)
    for path in (outside, repo / ".git" / "config", tree / ".run" / "x", "/etc/passwd"):
        with pytest.raises(PipelineError, match="R1_ALLOWED_DIRS"):
            require_allowed(Path(path), repo)
    assert require_allowed(repo / "assets", repo) == repo / "assets"
    monkeypatch.setenv("R1_DATA_DIR", str(outside))  # the operator's own, which profiles name
    require_allowed(outside / "gsm8k.jsonl", repo)
    with pytest.raises(PipelineError, match="weights_dir"):  # to be read, not written
        require_weights_dir(str(outside), tree)


CLUSTER: Mapping[str, Any] = {
    "context": "production",
    "namespace": "kube-system",
    "image": "evil.example/miner:latest",
    "python": "/bin/sh",
    "volumes": {"everybodys-data": "/data"},
    "service_account": "cluster-admin",
    "secret": "somebody-elses",  # pragma: allowlist secret
    "labels": {"app": "database"},
    "env": {"LD_PRELOAD": "/data/x.so"},
    "pod": {"hostNetwork": True},
}


def test_what_a_run_is_in_a_cluster_is_the_committed_profiles_to_say(repo: Path) -> None:
    assert set(CLUSTER) == set(OF_THE_PROFILE)
    for field, value in CLUSTER.items():
        words = rf"engine\.kubernetes\.{field} = .*profiles/"
        _require_refused(repo, {f"engine.kubernetes.{field}": value}, words)
    _require_refused(repo, {"engine.kubernetes": {"image": "x"}}, r"engine\.kubernetes\.image = 'x'")
    _require_refused(repo, {"engine.kubernetes.volumes.mine": "/data"}, r"engine\.kubernetes\.volumes")
    import yaml

    profile = repo / "profiles" / "cluster.yaml"
    profile.write_text(yaml.safe_dump({"engine": {"kubernetes": {**CLUSTER, "pod": {}}}}), encoding="utf-8")
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    subprocess.run(["git", "add", "--all"], cwd=repo, check=True)
    subprocess.run(["git", *identity, "commit", "--quiet", "-m", "a profile"], cwd=repo, check=True)
    size = {"engine.kubernetes.gpus_per_node": 8, "engine.kubernetes.time_limit_minutes": 60}
    create_run(repo, "cluster", profile="cluster", overrides=size)
    secrets_name = {"engine.kubernetes.secret": CLUSTER["secret"]}
    with pytest.raises(PipelineError, match=rf"engine\.kubernetes\.secret = '{CLUSTER['secret']}'"):
        create_run(repo, "foreign", profile="micro", overrides=secrets_name)
    with pytest.raises(PipelineError, match=r"engine\.kubernetes\.image = ''"):
        create_run(repo, "foreign", profile="cluster", overrides={"engine.kubernetes.image": ""})


def test_models_are_names_entries_or_directories_with_weights(repo: Path, tmp_path: Path) -> None:
    for value in HOSTILE:
        assert _refused(lambda value=value: select_models(repo, [value], "")), value
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(PipelineError, match="outside the directories that parameters may name"):
        select_models(repo, [str(tmp_path)], "")
    for value in (
        "/etc",
        "/root",
        "~root/x",
        "~nobody-of-that-name/x",
        "/proc/self/root",
        "x/" * 3000,
        "/\x00",
    ):
        assert _refused(lambda value=value: select_models(repo, [value], "")), value


_LOOK = """
import json, sys
from airflow.sdk import DAG
import deepseek_r1, distill, evaluate
hostile = json.loads(sys.stdin.read())
found = {"texts": [], "accepted": {}, "operators": {}}
for module in (deepseek_r1, distill, evaluate):
    for task in module.dag.tasks:
        kind = getattr(task, "operator_class", type(task))
        found["operators"][kind.__name__] = [kind.__module__, list(kind.template_fields)]
        given = {**getattr(task, "partial_kwargs", {}), **{f: getattr(task, f, None) for f in task.template_fields}}
        found["texts"] += [[task.task_id, f, repr(given.get(f))] for f in (*task.template_fields, "map_index_template") if given.get(f)]
    for name in module.dag.params:
        param = module.dag.params.get_param(name)
        for value in hostile:
            for shape in (value, [value], {value: value}):
                try:
                    param.resolve(shape)
                except Exception:
                    continue
                found["accepted"].setdefault(f"{module.dag.dag_id}.{name}", []).append(json.dumps(shape)[:60])
print("RESULT" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the DAGs are made of, and which hostile values their forms let through. The DAGs are imported in a process of their own."""
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW")},
        "PYTHONPATH": f"{PROJECT}:{PROJECT / 'dags'}",
        "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
    }
    values = json.dumps([value for value in HOSTILE if len(value) < 1000])
    done = subprocess.run(
        [sys.executable, "-c", _LOOK],
        input=values,
        env=env,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout.rpartition("RESULT")[2]))


def test_no_operator_runs_a_shell_and_no_template_holds_a_form_value(forms: dict[str, Any]) -> None:
    for name, (module, fields) in forms["operators"].items():
        assert "bash" not in name.lower()
        assert "bash" not in module
        if name.startswith("Stage"):
            assert fields == [], name
    templates = [text for _, _, text in forms["texts"] if "{{" in text or "{%" in text]
    assert set(templates) <= {
        "'{{ task.item }}'"
    }  # the label of a mapped task; the item is a checked name, and not rendered again


def test_the_form_lets_through_only_what_the_library_checks(forms: dict[str, Any]) -> None:
    free = {name.partition(".")[2] for name in forms["accepted"]}
    # Checked above: a revision and from_run by git, models and overrides by the library. A trailing line break is all that
    # a JSON Schema pattern lets through (`$`), and check_names and the parameters refuse it.
    assert free <= {"revision", "from_run", "models", "overrides", "students", "suites", "teacher"}
    for name in ("students", "suites", "teacher"):
        for dag in ("deepseek_r1", "distill", "evaluate"):
            let_through = forms["accepted"].get(f"{dag}.{name}", [])
            assert all("\\n" in text or "xxx" in text or "HEAD..main" in text for text in let_through), (
                let_through
            )
