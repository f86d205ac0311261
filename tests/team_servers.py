"""Real servers of a team, each for as long as a test needs it: PostgreSQL, S3 and MLflow with logins."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_server import free_port, mlflow_server

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSWORD = "a-secret-of-the-database"  # noqa: S105  # of a cluster that lives as long as its test
ADMIN, ADMIN_PASSWORD = "lead", "a-secret-of-the-lead"
DEBIANS_FOLDERS = "/usr/lib/postgresql/*/bin"
# Whom the database may run as where the tests run as root, which it refuses.
SERVANTS = ("postgres", "nobody")
BUCKET = "artifacts"
# moto looks at none of it, but boto signs nothing without.
S3_LOGIN = {
    "AWS_ACCESS_KEY_ID": "team",
    "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-store",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A PostgreSQL that runs on 127.0.0.1."""

    port: int

    def uri(self, database: str) -> str:
        return f"postgresql+psycopg://cnnbench:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def create(self, *databases: str) -> None:
        import psycopg  # noqa: PLC0415  # where it is missing, the tests say so
        from psycopg.sql import SQL, Identifier  # noqa: PLC0415

        address = self.uri("postgres").replace("+psycopg", "")
        with psycopg.connect(address, autocommit=True) as connection:
            for database in databases:
                connection.execute(SQL("CREATE DATABASE {}").format(Identifier(database)))


def postgres_program(name: str) -> str | None:
    """Return where PostgreSQL's `name` is: on the PATH, or where Debian puts the newest."""
    found = sorted(Path("/").glob(f"{DEBIANS_FOLDERS[1:]}/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


@contextmanager
def postgres() -> Iterator[Cluster]:
    """Make a cluster in a folder of its own and run it, as another user where this one is root."""
    user = next((name for name in SERVANTS if _exists(name)), None) if os.geteuid() == 0 else None
    # Not pytest's own: another user may not enter that.
    with tempfile.TemporaryDirectory(prefix="cnnbench-postgres-") as text:
        folder = Path(text)
        data, secret = folder / "data", folder / "password"
        secret.write_text(PASSWORD)
        if user is not None:
            for path in (folder, secret):
                shutil.chown(path, user)
        _run("initdb", "-D", data, "--pwfile", secret, *_INIT, user=user)
        port = free_port()
        options = f"-p {port} -k {folder} {_FAST}"
        _run("pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start", user=user)
        try:
            yield Cluster(port=port)
        finally:
            _run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop", user=user)


_INIT = ("-U", "cnnbench", "--auth", "scram-sha-256", "-E", "UTF8", "--locale", "C", "--no-sync")
# Nobody needs this data after a power cut.
_FAST = "-c listen_addresses=127.0.0.1 -c fsync=off -c full_page_writes=off -c shared_buffers=16MB"


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _run(name: str, *arguments: object, user: str | None) -> None:
    program = postgres_program(name)
    assert program is not None
    done = subprocess.run(
        [program, *map(str, arguments)],
        user=user,
        cwd="/",
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        # The server inherits these and outlives the call: a pipe would never end.
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, f"{name} ended with {done.returncode}"


@contextmanager
def s3() -> Iterator[str]:
    """Run moto's S3 with one empty bucket, and give its address."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415  # as above

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        address = f"http://{host}:{port}"
        s3_client(address).create_bucket(Bucket=BUCKET)
        yield address
    finally:
        server.stop()


def s3_client(address: str) -> Any:
    import boto3  # noqa: PLC0415  # as above

    return boto3.client(
        "s3",
        endpoint_url=address,
        aws_access_key_id=S3_LOGIN["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=S3_LOGIN["AWS_SECRET_ACCESS_KEY"],
        region_name=S3_LOGIN["AWS_DEFAULT_REGION"],
    )


def artifacts(address: str) -> list[str]:
    """Return the names of what lies in the bucket."""
    pages = s3_client(address).get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    return [item["Key"] for page in pages for item in page.get("Contents", ())]


@contextmanager
def team_server(cluster: Cluster, s3_address: str, folder: Path) -> Iterator[str]:
    """Run MLflow as docs/team-server.md says, and give its address."""
    cluster.create("mlflow", "logins")
    rights = folder / "logins.ini"
    rights.write_text(
        "[mlflow]\n"
        "default_permission = EDIT\n"
        f"database_uri = {cluster.uri('logins')}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        "auth_cache_ttl_seconds = 60\n"
    )
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = (sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth")
    environment = {
        **S3_LOGIN,
        "MLFLOW_S3_ENDPOINT_URL": s3_address,
        "MLFLOW_BACKEND_STORE_URI": cluster.uri("mlflow"),
        "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}",
        "MLFLOW_AUTH_CONFIG_PATH": str(rights),
        "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN,
        "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN_PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-secret-of-the-forms",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with mlflow_server(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
        environment=environment,
        health=f"{address}/health",
        log=folder / "server.log",
    ):
        yield address
