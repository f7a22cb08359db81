"""docker-compose.airflow.yml, its image and its settings, as far as they can be judged without a Docker engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from squorflow.config import WorkflowConfig

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.airflow.yml"
COMPONENTS = {
    "airflow-apiserver": "airflow api-server",
    "airflow-scheduler": "airflow scheduler",
    "airflow-dag-processor": "airflow dag-processor",
    "airflow-triggerer": "airflow triggerer",
    "airflow-worker": "airflow celery worker",
}
VARIABLE = re.compile(r"(?<!\$)\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}")


def _env(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    """What `scripts/make_env.py` prints."""
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "make_env.py"], capture_output=True, text=True, check=True
    )
    return _env(done.stdout)


@pytest.fixture(scope="module")
def services(made: dict[str, str]) -> dict[str, Any]:
    """The services with the settings filled in, as compose would."""

    def fill(match: re.Match[str]) -> str:
        value = made.get(match["name"], "")
        if match["kind"] == "?":
            assert value, f"{match['name']} has to be set"
        return value or (match["rest"] if match["kind"] == "-" else "")

    text = VARIABLE.sub(fill, FILE.read_text(encoding="utf-8")).replace("$$", "$")
    found: dict[str, Any] = yaml.safe_load(text)["services"]
    return found


def test_every_component_of_airflow_runs_with_its_own_command_on_the_image_we_build(services: dict[str, Any]) -> None:
    assert {name: services[name]["command"] for name in COMPONENTS} == COMPONENTS
    airflow = [one for name, one in services.items() if name not in {"postgres", "redis"}]
    assert {one["image"] for one in airflow} == {"squorflow:local"}
    assert {one["build"] for one in airflow} == {"."}
    assert {name for name, one in services.items() if "profiles" in one} == {"flower", "airflow-cli"}


def test_every_service_that_stays_up_says_whether_it_is_healthy_and_comes_back(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if name in {"airflow-init", "airflow-cli"}:
            continue
        assert service["healthcheck"]["test"], name
        assert service["restart"] == "unless-stopped", name


def test_nothing_runs_as_root_nor_may_become_it(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["user"].partition(":")[0] not in {"", "0", "root"}, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_every_secret_has_to_be_given_and_none_stands_in_the_file(made: dict[str, str]) -> None:
    text = FILE.read_text(encoding="utf-8")
    example = _env((ROOT / ".env.example").read_text(encoding="utf-8"))
    secrets = {name for name in example if re.search(r"PASSWORD$|SECRET$|_KEY$", name)} - {"GEMINI_API_KEY"}
    assert len(secrets) == 9
    for name in secrets:
        assert example[name] == ""
        assert f"${{{name}:?" in text
        assert f"${{{name}:-" not in text
        assert len(made[name]) >= 40
    assert len({made[name] for name in secrets}) == len(secrets)


def test_the_example_names_every_setting_of_the_file_and_no_other() -> None:
    example = _env((ROOT / ".env.example").read_text(encoding="utf-8"))
    used = {match["name"] for match in VARIABLE.finditer(FILE.read_text(encoding="utf-8"))}
    assert used - {"SQUORFLOW_IMAGE"} == example.keys()
    defaults = {
        match["name"]: match["rest"]
        for match in VARIABLE.finditer(FILE.read_text(encoding="utf-8"))
        if match["kind"] == "-"
    }
    assert {name: example[name] for name in defaults if name in example} == {
        name: value for name, value in defaults.items() if name in example
    }


def test_our_settings_are_ones_that_we_have_and_make_sense(
    services: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = services["airflow-worker"]["environment"]
    ours = {name: value for name, value in environment.items() if name.startswith(("WORKFLOW_", "ENABLE_"))}
    assert ours
    before = WorkflowConfig()
    for name, value in ours.items():
        monkeypatch.setenv(name, str(value))
    config = WorkflowConfig()
    known = {f"WORKFLOW_{name.upper()}" for name in WorkflowConfig.model_fields}
    assert ours.keys() <= known
    assert config.enrichment_pool == "squorflow_enrichment" != before.enrichment_pool
    assert "airflow pools set squorflow_enrichment 8 " in services["airflow-init"]["command"][-1]


def test_the_values_for_kubernetes_set_what_we_have_for_the_airflow_we_are_tested_with() -> None:
    values = yaml.safe_load((ROOT / "docs" / "kubernetes" / "values.yaml").read_text(encoding="utf-8"))
    assert f"ARG AIRFLOW_VERSION={values['airflowVersion']}\n" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    known = {f"WORKFLOW_{name.upper()}" for name in WorkflowConfig.model_fields}
    assert {one["name"] for one in values["env"]} <= known
    grace = values["workers"]["celery"]["terminationGracePeriodSeconds"]
    assert grace > WorkflowConfig().processing_timeout.total_seconds()


def test_all_processes_have_the_same_settings_and_airflow_s_database_is_not_ours(services: dict[str, Any]) -> None:
    base = services["airflow-scheduler"]["environment"]
    for name in COMPONENTS:
        assert services[name]["environment"].items() >= base.items(), name
    assert base["AIRFLOW__CORE__EXECUTOR"] == "CeleryExecutor"
    assert base["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].endswith("@postgres/airflow")
    assert base["AIRFLOW_CONN_WORKFLOW_DB"].endswith("@postgres/squorflow")
    assert "squorflow.airflow.celery_worker" in base["AIRFLOW__CELERY__EXTRA_CELERY_CONFIG"]


def test_only_loopback_is_published_unless_somebody_says_otherwise(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert sorted(ports) == ["127.0.0.1:5555:5555", "127.0.0.1:8080:8080"]


def test_what_is_mounted_from_here_is_here_and_every_volume_is_declared(services: dict[str, Any]) -> None:
    declared = set(yaml.safe_load(FILE.read_text(encoding="utf-8"))["volumes"])
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in declared or (ROOT / source).exists(), volume


def test_the_image_is_built_of_the_airflow_we_are_tested_with_and_of_what_is_in_the_context() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    locked = re.search(r"^apache-airflow==(\S+)", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.M)
    assert locked is not None
    assert f"ARG AIRFLOW_VERSION={locked[1]}\n" in dockerfile
    copied = {
        name for line in re.findall(r"^COPY (?:--chown=\S+ )?(.+) \S+$", dockerfile, re.M) for name in line.split()
    }
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[0] == "!"}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
    assert dockerfile.rstrip().endswith("USER airflow")


def test_the_file_is_what_the_compose_specification_allows() -> None:
    program = Path(sys.executable).with_name("check-jsonschema")
    done = subprocess.run(
        [program, "--builtin-schema", "vendor.compose-spec", FILE], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "ok -- validation done\n"), done.stdout


def test_nobody_waits_for_a_postgres_that_is_still_making_its_databases(services: dict[str, Any]) -> None:
    """Until its first start is over it listens on its socket only, and then goes down once."""
    assert "--host 127.0.0.1" in services["postgres"]["healthcheck"]["test"][1]
    for name, service in services.items():
        if name not in {"postgres", "redis"}:
            assert service["depends_on"]["postgres"] == {"condition": "service_healthy"}, name


def test_compose_itself_reads_the_file(made: dict[str, str], tmp_path: Path) -> None:
    client = shutil.which("docker")
    if client is None or subprocess.run([client, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("not available here: docker compose")
    (tmp_path / "env").write_text("".join(f"{name}={value}\n" for name, value in made.items()), encoding="utf-8")
    done = subprocess.run(
        [client, "compose", "-f", FILE, "--env-file", tmp_path / "env", "--profile", "*", "config", "--quiet"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
