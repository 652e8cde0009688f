"""The chart as Helm itself renders it: safe by default, and clear about what is missing."""

import base64
import copy
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from loyalty_gateway.config import ConfigError, load_settings
from loyalty_gateway.settings import Settings, split_address

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "loyalty-gateway"
KUBERNETES_VERSIONS = ("1.27", "1.31", "1.37")

Values = dict[str, Any]
Document = dict[str, Any]


@pytest.fixture(scope="module")
def chart() -> Iterator[helm_python.Chart]:
    with helm_python.Chart.load(CHART) as loaded:
        yield loaded


@pytest.fixture
def values() -> Values:
    loaded: Values = yaml.safe_load((CHART / "ci" / "example-values.yaml").read_text())
    return loaded


def rendered(chart: helm_python.Chart, values: Values) -> dict[str, str]:
    files: dict[str, str] = chart.render(values, name="shop", namespace="prod")
    return files


def documents(chart: helm_python.Chart, values: Values) -> list[Document]:
    return [
        document
        for name, text in rendered(chart, values).items()
        if name.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]


def one(chart: helm_python.Chart, values: Values, kind: str) -> Document:
    (found,) = [it for it in documents(chart, values) if it["kind"] == kind]
    return found


def pod(chart: helm_python.Chart, values: Values) -> Document:
    spec: Document = one(chart, values, "Deployment")["spec"]["template"]["spec"]
    return spec


def container(chart: helm_python.Chart, values: Values) -> Document:
    (only,) = pod(chart, values)["containers"]
    found: Document = only
    return found


def refusal(chart: helm_python.Chart, values: Values) -> str:
    with pytest.raises(helm_python.HelmError) as caught:
        rendered(chart, values)
    return str(caught.value)


def settings_of(chart: helm_python.Chart, values: Values, secrets: Path) -> Settings:
    """What the server reads of the rendered file, with the Secret's files laid under `secrets`."""
    text = one(chart, values, "ConfigMap")["data"]["loyalty.toml"]
    text = text.replace("/run/secrets/loyalty-journal", str(secrets))
    (secrets / "dsn").write_text("postgresql://user:secret@database:5432/loyalty")
    for file in re.findall(r'"/run/secrets/loyalty/([^"]+)"', text):
        (secrets / file).write_text(base64.b64encode(bytes(32)).decode())
    path = secrets / "loyalty.toml"
    path.write_text(text.replace("/run/secrets/loyalty", str(secrets)))
    return load_settings(path, {}, required_profile="production")


def test_helm_lint_finds_nothing(values: Values) -> None:
    result = helm_python.lint(CHART, values, strict=True)
    complaints = [it for it in result["messages"] if "icon is recommended" not in str(it)]
    assert complaints == []


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_every_document_is_valid_for_kubernetes(
    chart: helm_python.Chart, values: Values, version: str
) -> None:
    values["extraEnv"] = [{"name": "LOYALTY_TELEMETRY__LOG_LEVEL", "value": "debug"}]
    values["imagePullSecrets"] = [{"name": "registry"}]
    values["tolerations"] = [{"key": "a", "operator": "Exists"}]
    values["nodeSelector"] = {"disk": "fast"}
    values["persistence"] = {"storageClass": "fast", "annotations": {"a": "b"}}
    values["podLabels"] = {"team": "loyalty"}
    values["podAnnotations"] = {"a": "b"}
    values["service"] = {"annotations": {"a": "b"}}
    values["adminService"] = {"annotations": {"a": "b"}}
    values["serviceAccount"] = {"annotations": {"a": "b"}}
    values["priorityClassName"] = "high"
    values["affinity"] = {"nodeAffinity": {}}
    found = documents(chart, values)
    assert {it["kind"] for it in found} == {
        "ConfigMap",
        "Deployment",
        "PersistentVolumeClaim",
        "Service",
        "ServiceAccount",
    }
    for document in found:
        kubernetes_validate.validate(document, version, strict=True)


def test_the_validation_itself_finds_a_misspelling(
    chart: helm_python.Chart, values: Values
) -> None:
    document = one(chart, values, "Deployment")
    spec = document["spec"]["template"]["spec"]["containers"][0]
    spec["readinesProbe"] = spec.pop("readinessProbe")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, KUBERNETES_VERSIONS[0], strict=True)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("replicas", 0, "replicas"),
        ("replicaCount", 2, "replicaCount"),
        ("journal.dsn", "postgresql://a:b@c/d", "dsn"),
        ("journal.dsnSecret", "database", "dsnSecret"),
        ("journal.dsnSecret.key", "a/b", "key"),
        ("journal.ha", "quorum", "ha"),
        ("image.tagg", "x", "tagg"),
        ("image.digest", "latest", "digest"),
        ("secrets.sealingKey", "x", "sealingKey"),
        ("config.limits.in_flight_maximum", 1, "in_flight_maximum"),
        ("config.limits.in_flight_max", 0, "in_flight_max"),
        ("config.server.listen", "0.0.0.0:1", "listen"),
        ("config.server.auth", "loopback-only", "auth"),
        ("config.keys", {"outbound_salt": "x"}, "keys"),
        ("config.journal", {"path": "/x"}, "journal"),
        ("config.connections", {}, "connections"),
        ("connections.UPPER", {"provider": "x"}, "UPPER"),
        ("connections.other", {"base_url": "x"}, "provider"),
        ("service.port", 0, "port"),
        ("terminationGracePeriodSeconds", "45", "terminationGracePeriodSeconds"),
        ("probes.liveness.initialDelay", 1, "initialDelay"),
    ],
)
def test_the_schema_names_what_it_refuses(
    chart: helm_python.Chart, values: Values, path: str, value: Any, named: str
) -> None:
    place = values
    *above, last = path.split(".")
    for step in above:
        place = place.setdefault(step, {})
    place[last] = value
    assert named in refusal(chart, values)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("secrets.existingSecret", "", "secrets.existingSecret is missing"),
        ("secrets.sealingKeys", [], "secrets.sealingKeys is empty"),
        ("secrets.outboundSaltKey", "", "secrets.outboundSaltKey is missing"),
        ("connections", {}, "connections is empty"),
        ("acceptUnauthenticatedCallers", False, "acceptUnauthenticatedCallers must be set to true"),
        ("connections.cashassist.api_key", "canary", "connections.cashassist.api_key: a secret"),
        ("connections.cashassist.clientSecret", "canary", "cashassist.clientSecret: a secret"),
        ("secrets.files", [], "connections.cashassist.api_key_file: cashassist-api-key is not"),
        ("terminationGracePeriodSeconds", 42, "terminationGracePeriodSeconds is 42 and must not"),
        ("config.server", {"drain_grace_s": 60}, "must not be less than 83"),
        ("config.provider", {"attempt_total_s": 30}, "must not be less than 58"),
        ("replicas", 2, "replicas is 2, but the journal is a SQLite file"),
        ("journal.dsnSecret.name", "canary-database", "journal.dsnSecret.key is missing"),
        ("journal.ha", "synchronous", "journal.ha is synchronous"),
    ],
)
def test_what_is_missing_or_unsafe_names_itself(
    chart: helm_python.Chart, values: Values, path: str, value: Any, named: str
) -> None:
    place = values
    *above, last = path.split(".")
    for step in above:
        place = place.setdefault(step, {})
    place[last] = value

    text = refusal(chart, values)

    assert named in text
    assert "canary" not in text.replace("canary-database", "")


def test_the_defaults_alone_render_nothing_and_say_what_to_make(
    chart: helm_python.Chart,
) -> None:
    text = refusal(chart, {})
    assert "secrets.existingSecret is missing" in text
    assert "kubectl create secret generic" in text


def test_the_pod_fits_the_restricted_standard(chart: helm_python.Chart, values: Values) -> None:
    spec, only = pod(chart, values), container(chart, values)

    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 65532
    assert spec["securityContext"]["fsGroup"] == 65532
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert {next(iter(it.keys() - {"name"})) for it in spec["volumes"]} <= {
        "configMap",
        "emptyDir",
        "persistentVolumeClaim",
        "secret",
    }
    account = one(chart, values, "ServiceAccount")
    assert account["automountServiceAccountToken"] is False


def test_the_only_writable_places_are_the_journal_and_tmp(
    chart: helm_python.Chart, values: Values
) -> None:
    writable = {
        it["mountPath"] for it in container(chart, values)["volumeMounts"] if not it.get("readOnly")
    }
    assert writable == {"/var/lib/loyalty", "/tmp"}


def test_one_pod_at_a_time_owns_the_journal(chart: helm_python.Chart, values: Values) -> None:
    spec = one(chart, values, "Deployment")["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}


def test_the_journal_survives_an_uninstall(chart: helm_python.Chart, values: Values) -> None:
    claim = one(chart, values, "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"

    values["persistence"] = {"existingClaim": "mine"}
    assert not [it for it in documents(chart, values) if it["kind"] == "PersistentVolumeClaim"]
    (data,) = [it for it in pod(chart, values)["volumes"] if it["name"] == "data"]
    assert data["persistentVolumeClaim"] == {"claimName": "mine"}


@pytest.fixture
def shared(values: Values) -> Values:
    """The example on PostgreSQL, with its address in a Secret of the database's own."""
    values["journal"] = {"dsnSecret": {"name": "database", "key": "uri"}, "ha": "synchronous"}
    values["replicas"] = 3
    return values


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_every_document_of_a_shared_journal_is_valid_for_kubernetes(
    chart: helm_python.Chart, shared: Values, version: str
) -> None:
    found = documents(chart, shared)
    assert {it["kind"] for it in found} == {
        "ConfigMap",
        "Deployment",
        "Service",
        "ServiceAccount",
    }
    for document in found:
        kubernetes_validate.validate(document, version, strict=True)


def test_helm_lint_finds_nothing_in_a_shared_journal(shared: Values) -> None:
    result = helm_python.lint(CHART, shared, strict=True)
    complaints = [it for it in result["messages"] if "icon is recommended" not in str(it)]
    assert complaints == []


def test_pods_that_share_a_journal_are_replaced_without_a_pause(
    chart: helm_python.Chart, shared: Values
) -> None:
    spec = one(chart, shared, "Deployment")["spec"]
    assert spec["replicas"] == 3
    assert spec["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }


def test_a_shared_journal_needs_no_volume_and_writes_to_tmp_alone(
    chart: helm_python.Chart, shared: Values
) -> None:
    shared["persistence"] = {"existingClaim": "left-over"}
    assert "data" not in {it["name"] for it in pod(chart, shared)["volumes"]}
    mounts = container(chart, shared)["volumeMounts"]
    assert {it["mountPath"] for it in mounts if not it.get("readOnly")} == {"/tmp"}


@pytest.mark.parametrize(("name", "secret"), [("database", "database"), ("", "loyalty-gateway")])
def test_the_server_reads_the_databases_address_from_its_secret(
    chart: helm_python.Chart, shared: Values, tmp_path: Path, name: str, secret: str
) -> None:
    shared["journal"]["dsnSecret"]["name"] = name
    (volume,) = [it["secret"] for it in pod(chart, shared)["volumes"] if it["name"] == "journal"]
    assert volume["secretName"] == secret
    assert volume["items"] == [{"key": "uri", "path": "dsn"}]
    (mount,) = [it for it in container(chart, shared)["volumeMounts"] if it["name"] == "journal"]

    journal = settings_of(chart, shared, tmp_path).journal

    text = one(chart, shared, "ConfigMap")["data"]["loyalty.toml"]
    assert f'dsn_file = "{mount["mountPath"]}/dsn"' in text
    assert journal.dsn is not None
    assert journal.dsn.get_secret_value().endswith("@database:5432/loyalty")
    assert journal.ha == "synchronous"


def test_the_notes_say_where_the_journal_stays(chart: helm_python.Chart, shared: Values) -> None:
    (text,) = [it for name, it in rendered(chart, shared).items() if name.endswith("NOTES.txt")]
    assert "the key uri of the Secret database" in text
    assert "volume" not in text


def test_the_server_accepts_the_rendered_configuration(
    chart: helm_python.Chart, values: Values, tmp_path: Path
) -> None:
    values["config"] = {
        "limits": {"in_flight_max": 256, "tombstones_per_hour_max": 1_000_000},
        "recovery": {"schedule_s": [2, 4.5]},
        "telemetry": {"otlp_endpoint": "http://collector:4317", "sample_ratio": 0.5},
        "server": {"reflection": True, "tenant": "shop"},
    }

    settings = settings_of(chart, values, tmp_path)

    assert settings.limits.in_flight_max == 256
    assert settings.limits.tombstones_per_hour_max == 1_000_000
    assert settings.recovery.schedule_s == (2, 4.5)
    assert settings.server.tenant == "shop"
    assert settings.server.auth == "none-behind-trusted-proxy"
    assert settings.keys.sealing[0].secret_bytes == bytes(32)
    connection = settings.connections["cashassist"]
    assert connection.adapter_settings["currency"] == "CHF"
    assert connection.adapter_settings["max_in_flight"] == 64
    assert connection.promises["resend_is_safe"].value is True


def test_the_server_refuses_what_only_it_can_see(
    chart: helm_python.Chart, values: Values, tmp_path: Path
) -> None:
    values["config"] = {"engine": {"lease_s": 10}}
    with pytest.raises(ConfigError, match=r"engine\.lease_s"):
        settings_of(chart, values, tmp_path)


def test_the_ports_of_pod_probes_services_and_settings_agree(
    chart: helm_python.Chart, values: Values, tmp_path: Path
) -> None:
    values["service"] = {"port": 443}
    server = settings_of(chart, values, tmp_path).server
    only = container(chart, values)
    ports = {it["name"]: it["containerPort"] for it in only["ports"]}
    assert ports == {
        "grpc": split_address(server.listen)[1],
        "grpc-admin": split_address(server.admin_listen)[1],
        "http-metrics": split_address(server.metrics_listen)[1],
    }
    services = [it for it in documents(chart, values) if it["kind"] == "Service"]
    targets = {it["name"]: it["targetPort"] for one in services for it in one["spec"]["ports"]}
    assert targets == {name: name for name in ports}
    selector = one(chart, values, "Deployment")["spec"]["selector"]["matchLabels"]
    assert all(service["spec"]["selector"] == selector for service in services)


def test_probes_ask_the_admin_port_for_names_that_the_server_registers(
    chart: helm_python.Chart, values: Values, tmp_path: Path
) -> None:
    admin_port = split_address(settings_of(chart, values, tmp_path).server.admin_listen)[1]
    health = (ROOT / "server" / "loyalty_gateway" / "rpc" / "health.py").read_text()
    readiness = re.search(r'^READINESS = "([^"]+)"', health, re.MULTILINE)
    assert readiness is not None
    only = container(chart, values)
    assert only["startupProbe"]["grpc"] == {"port": admin_port, "service": ""}
    assert only["livenessProbe"]["grpc"] == {"port": admin_port, "service": ""}
    assert only["readinessProbe"]["grpc"] == {"port": admin_port, "service": readiness[1]}


def test_the_time_to_stop_fits_the_drain(
    chart: helm_python.Chart, values: Values, tmp_path: Path
) -> None:
    settings = settings_of(chart, values, tmp_path)
    server, attempt_s = settings.server, settings.provider.attempt_total_s
    seconds = pod(chart, values)["terminationGracePeriodSeconds"]
    assert seconds >= server.endpoint_delay_s + server.drain_grace_s + attempt_s + 3

    values["config"] = {"server": {"endpoint_delay_s": 10, "drain_grace_s": 30}}
    values["terminationGracePeriodSeconds"] = 58
    assert pod(chart, values)["terminationGracePeriodSeconds"] == 58


def test_a_changed_setting_starts_a_new_pod(chart: helm_python.Chart, values: Values) -> None:
    def checksum(of: Values) -> str:
        template = one(chart, of, "Deployment")["spec"]["template"]
        found: str = template["metadata"]["annotations"]["checksum/config"]
        return found

    changed = copy.deepcopy(values)
    changed["config"] = {"limits": {"in_flight_max": 256}}
    assert checksum(values) == checksum(copy.deepcopy(values))
    assert checksum(values) != checksum(changed)


def test_no_service_of_the_namespace_can_become_a_setting(
    chart: helm_python.Chart, values: Values
) -> None:
    assert pod(chart, values)["enableServiceLinks"] is False


def test_the_secret_is_mounted_key_by_key_and_read_only(
    chart: helm_python.Chart, values: Values
) -> None:
    (secret,) = [it["secret"] for it in pod(chart, values)["volumes"] if it["name"] == "secrets"]
    assert [it["key"] for it in secret["items"]] == [
        "sealing-key",
        "outbound-salt",
        "cashassist-api-key",
    ]
    assert secret["defaultMode"] == 0o440
    (mount,) = [it for it in container(chart, values)["volumeMounts"] if it["name"] == "secrets"]
    assert mount["readOnly"] is True


def test_a_digest_goes_before_the_tag(chart: helm_python.Chart, values: Values) -> None:
    assert container(chart, values)["image"] == "loyalty-gateway:0.1.0"
    digest = "sha256:" + "0" * 64
    values["image"] = {"repository": "registry.example/gateway", "tag": "x", "digest": digest}
    assert container(chart, values)["image"] == f"registry.example/gateway@{digest}"


def test_long_release_names_stay_valid(chart: helm_python.Chart, values: Values) -> None:
    files = chart.render(values, name="r" * 53, namespace="prod")
    for name, text in files.items():
        if name.endswith(".yaml"):
            for document in yaml.safe_load_all(text):
                assert document is None or len(document["metadata"]["name"]) <= 63


def test_the_notes_give_a_command_that_fits(chart: helm_python.Chart, values: Values) -> None:
    def notes(of: Values) -> str:
        (text,) = [it for name, it in rendered(chart, of).items() if name.endswith("NOTES.txt")]
        return text

    protoset = "generated/loyalty/v1/descriptor_set.binpb"
    assert f"grpcurl -plaintext -protoset {protoset} 127.0.0.1:50051" in notes(values)
    assert (ROOT / protoset).exists()
    values["config"] = {"server": {"reflection": True}}
    assert "grpcurl -plaintext 127.0.0.1:50051 loyalty.v1.Providers/" in notes(values)


def test_no_template_names_a_vendor() -> None:
    providers = [it.name for it in (ROOT / "server" / "loyalty_gateway" / "providers").iterdir()]
    for template in (CHART / "templates").iterdir():
        text = template.read_text()
        for provider in ("cashassist", "cardsapi", "loyalife", "openloyaltypay"):
            assert provider not in text, f"{template.name} names {provider}"
    assert "cashassist" in providers


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_chart", ROOT / "helm" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_and_the_schema_are_fresh(generator: ModuleType) -> None:
    assert list(generator.stale()) == []


def test_every_value_is_in_the_readme_and_the_schema(
    generator: ModuleType, chart: helm_python.Chart
) -> None:
    documented = {name.partition(".")[0] for name, _, _ in generator._documented()}
    defaults = set(yaml.safe_load((CHART / "values.yaml").read_text()))
    assert documented == defaults
    assert defaults | {"global"} == set(chart.schema["properties"])
