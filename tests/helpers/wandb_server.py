"""Plays wandb's server on this machine, for the package's own commands: sweeps, agents, runs, files and artifacts.

It answers what `wandb sweep`, `wandb agent`, `wandb sync` and `wandb.init` ask, and records what they send. A test
reads `sweeps` and `runs`, stops a run by `stop`, and takes the server away by `away`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

KEY = "0123456789" * 4
"""Of the form that wandb's key has; the server takes any."""
ENTITY = "team"
PROGRAM = '#!/bin/sh\nexec "{python}" -P -m dcnlab "$@"\n'
"""This checkout's command, for agents that find it in PATH."""
CLI = """
from wandb import wandb_agent
from wandb.cli.cli import cli
wandb_agent.Agent.POLL_INTERVAL = 0.5
cli()
"""
"""wandb's own command, with an agent that looks ten times as often."""
SOON = {
    **{f"WANDB__{client}_RETRY_WAIT_MIN_SECONDS": "0.1" for client in ("FILE_STREAM", "FILE_TRANSFER", "GRAPHQL")},
    **{f"WANDB__{client}_RETRY_WAIT_MAX_SECONDS": "0.5" for client in ("FILE_STREAM", "FILE_TRANSFER", "GRAPHQL")},
    "WANDB__FILE_STREAM_TRANSMIT_INTERVAL": "1",
}
"""wandb asks a server that was away again within half a second, not after minutes, and sends each second, not 15."""


@dataclass
class Run:
    """What arrived of one run."""

    name: str
    project: str
    entity: str
    upserts: list[dict[str, Any]] = field(default_factory=list)
    """Variables of each UpsertBucket."""
    config: dict[str, Any] = field(default_factory=dict)
    """Key to {"value": ...}, as wandb stores it."""
    lines: dict[str, list[str]] = field(default_factory=dict)
    """Of each stream, such as wandb-history.jsonl and output.log."""
    files: dict[str, bytes] = field(default_factory=dict)
    state: str = "running"
    exitcode: int | None = None
    preempting: bool = False
    stopped: bool = False
    """Whether a test, or early termination, stopped it."""
    artifacts: list[dict[str, Any]] = field(default_factory=list)

    def latest(self, key: str) -> Any:
        """The last value of a variable of UpsertBucket that is not null."""
        return next((upsert[key] for upsert in reversed(self.upserts) if upsert.get(key) not in (None, "", [])), None)

    @property
    def values(self) -> dict[str, Any]:
        """The config without wandb's wrapping."""
        return {key: entry["value"] for key, entry in self.config.items()}

    @property
    def history(self) -> list[dict[str, Any]]:
        """The logged rows."""
        return [json.loads(line) for line in self.lines.get("wandb-history.jsonl", []) if line]

    @property
    def summary(self) -> dict[str, Any]:
        """The summary."""
        lines = self.lines.get("wandb-summary.json", [])
        return json.loads(lines[-1]) if lines else {}


@dataclass
class Sweep:
    """A sweep, its grid and its agents."""

    name: str
    project: str
    entity: str
    text: str
    """Its YAML."""
    state: str = "RUNNING"
    waiting: list[dict[str, Any]] = field(default_factory=list)
    """Commands for agents."""
    agents: list[str] = field(default_factory=list)

    @property
    def config(self) -> dict[str, Any]:
        """The file."""
        return yaml.safe_load(self.text)


class WandbServer:
    """The server, on a thread of this process."""

    def __init__(self) -> None:
        self.sweeps: dict[str, Sweep] = {}
        self.runs: dict[str, Run] = {}
        self.operations: list[str] = []
        """Names of the GraphQL operations that came, in order."""
        self.unknown: list[str] = []
        """Queries that it has no answer to."""
        self.heartbeats: list[tuple[str, dict[str, Any]]] = []
        self.lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._http: ThreadingHTTPServer | None = None
        self._port = 0
        self.start()

    def start(self) -> None:
        """Listen, on the same port as before."""
        handler = type("Handler", (_Handler,), {"server_of_wandb": self})
        self._http = _Http(("127.0.0.1", self._port), handler)
        self._port = self._http.server_port
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Stop listening: connections are refused, and those that stand are cut."""
        assert self._http is not None
        self._http.shutdown()
        self._http.server_close()
        self._http.closed = True

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Be out of reach for a while."""
        self.close()
        try:
            yield
        finally:
            self.start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._port}"

    def environment(self, folder: Path) -> dict[str, str]:
        """Variables for wandb's commands; they write below the folder, and `dcnlab` is this checkout's."""
        programs = folder / "bin"
        programs.mkdir(exist_ok=True)
        (programs / "dcnlab").write_text(PROGRAM.format(python=sys.executable))
        (programs / "dcnlab").chmod(0o755)
        return {
            **SOON,
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": KEY,
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_CONFIG_DIR": str(folder / "wandb-config"),
            "WANDB_CACHE_DIR": str(folder / "wandb-cache"),
            "HOME": str(folder),
            "PATH": os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]),
        }

    def stop(self, name: str) -> None:
        """Have the agent of a run end it, as the Stop button and early termination do."""
        self.runs[name].stopped = True

    # GraphQL, by the operation's name.

    def answer(self, query: str, variables: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and content of the answer to a query."""
        match = re.search(r"(?:query|mutation)\s+(\w+)", query)
        name = match[1] if match else query[:40]
        with self.lock:
            self.operations.append(name)
            method = getattr(self, f"_{name}", None)
            if method is None:
                self.unknown.append(query)
                return 200, {"errors": [{"message": f"the test's server has no answer to {name}"}], "data": None}
            try:
                return 200, {"data": method(variables)}
            except LookupError as error:
                return 404, {"errors": [{"message": str(error)}], "data": None}

    def _Viewer(self, variables: dict[str, Any]) -> dict[str, Any]:
        teams = {"edges": [{"node": {"name": ENTITY}}]}
        user = {"id": "u1", "entity": ENTITY, "username": "tester", "email": "", "name": "tester", "flags": "{}"}
        return {"viewer": {**user, "teams": teams, "admin": False, "deletedAt": None, "apiKeys": {"edges": []}}}

    _GetDefaultEntity = _GetViewer = _Viewer

    def _ServerFeaturesQuery(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _OrganizationCoreWeaveOrganizationID(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    def _XXHashDigestsEnabled(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"xxhashDigestsEnabled": False}}

    # Sweeps and agents.

    def _sweep(self, name: str) -> Sweep:
        if name not in self.sweeps:
            raise LookupError(f"could not find sweep {name} during createAgent")
        return self.sweeps[name]

    def _UpsertSweep(self, variables: dict[str, Any]) -> dict[str, Any]:
        if variables.get("id"):
            sweep = self._sweep(variables["id"])
            sweep.state = variables.get("state") or sweep.state
        else:
            project, entity = variables["projectName"] or "uncategorized", variables["entityName"] or ENTITY
            name = f"sweep{next(self._numbers)}"
            sweep = self.sweeps[name] = Sweep(name, project, entity, variables["config"])
            sweep.waiting = [self._command("run", sweep, f"{name}-{n}", p) for n, p in enumerate(_grid(sweep.config))]
        project = {"id": sweep.project, "name": sweep.project, "entity": {"id": sweep.entity, "name": sweep.entity}}
        return {"upsertSweep": {"sweep": {"name": sweep.name, "project": project}, "configValidationWarnings": []}}

    def _command(self, kind: str, sweep: Sweep, run: str, parameters: dict[str, Any]) -> dict[str, Any]:
        args = {key: {"value": value} for key, value in parameters.items()}
        return {"type": kind, "run_id": run, "program": sweep.config.get("program"), "args": args, "logs": []}

    def _SweepWithRuns(self, variables: dict[str, Any]) -> dict[str, Any]:
        sweep = self.sweeps.get(variables["sweep"])
        if sweep is None:
            return {"project": {"sweep": None}}
        found = {"id": sweep.name, "name": sweep.name, "state": sweep.state, "config": sweep.text}
        return {"project": {"sweep": {**found, "runs": {"edges": []}}}}

    def _CreateAgent(self, variables: dict[str, Any]) -> dict[str, Any]:
        sweep = self._sweep(variables["sweep"])
        agent = f"{sweep.name}/agent{next(self._numbers)}"
        sweep.agents.append(agent)
        return {"createAgent": {"agent": {"id": agent}}}

    def _Heartbeat(self, variables: dict[str, Any]) -> dict[str, Any]:
        sweep = self._sweep(variables["id"].partition("/")[0])
        running = json.loads(variables["runState"])
        self.heartbeats.append((variables["id"], running))
        commands = [{"type": "stop", "run_id": run} for run in running if run in self.runs and self.runs[run].stopped]
        if not running and sweep.state != "RUNNING":
            commands = [{"type": "exit"}]
        elif not running:
            commands = [sweep.waiting.pop(0) if sweep.waiting else {"type": "exit"}]
        return {"agentHeartbeat": {"agent": {"id": variables["id"]}, "commands": json.dumps(commands)}}

    def requeue(self, run: Run) -> None:
        """Offer a preempted run to the next agent: its whole config comes back as the arguments."""
        sweep = self.sweeps.get(run.latest("sweep"))
        if sweep is not None:
            sweep.waiting.insert(0, self._command("resume", sweep, run.name, run.values))

    # Runs and their files.

    def _RunResumeStatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        project, entity = variables["project"], variables["entity"] or ENTITY
        model = {"id": project, "name": project, "entity": {"id": entity, "name": entity}, "bucket": None}
        run = self.runs.get(variables["name"])
        if run is not None:
            history, events = (run.lines.get(f"wandb-{name}.jsonl", []) for name in ("history", "events"))
            model["bucket"] = {
                **{"id": run.name, "name": run.name, "displayName": run.latest("displayName")},
                **{"summaryMetrics": json.dumps(run.summary), "config": json.dumps(run.config)},
                **{"logLineCount": len(run.lines.get("output.log", [])), "historyLineCount": len(history)},
                **{"eventsLineCount": len(events), "historyTail": json.dumps(history[-1:])},
                **{"eventsTail": json.dumps(events[-1:]), "tags": run.latest("tags") or [], "notes": None},
                "wandbConfig": json.dumps({"t": 1}),
            }
        return {"model": model}

    def _UpsertBucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        if variables.get("sweep"):
            self._sweep(variables["sweep"])
        name = variables["name"] or variables["id"]
        inserted = name not in self.runs
        project, entity = variables["project"] or "uncategorized", variables["entity"] or ENTITY
        run = self.runs.setdefault(name, Run(name, project, entity))
        run.upserts.append(variables)
        run.config |= json.loads(variables.get("config") or "{}")
        if not inserted and run.state != "running" and variables.get("host"):
            run.state, run.exitcode, run.preempting = "running", None, False
        place = {"id": run.project, "name": run.project, "entity": {"id": run.entity, "name": run.entity}}
        bucket = {
            **{"id": name, "name": name, "displayName": run.latest("displayName"), "description": None},
            **{"config": json.dumps(run.config), "sweepName": run.latest("sweep"), "project": place},
            "historyLineCount": len(run.lines.get("wandb-history.jsonl", [])),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _CreateRunFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["run"]
        files = [{"name": file, "uploadUrl": f"{self.url}/upload/{name}/{file}"} for file in variables["files"]]
        return {"createRunFiles": {"runID": name, "uploadHeaders": [], "files": files}}

    def _MarkRunFilesUploaded(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"markRunFilesUploaded": {"success": True}}

    def stream(self, name: str, content: dict[str, Any]) -> dict[str, Any]:
        """Take what a run streams; the answer says whether it is to stop."""
        with self.lock:
            run = self.runs[name]
            for file, chunk in content.get("files", {}).items():
                at, lines = chunk.get("offset", 0), run.lines.setdefault(file, [])
                lines[at : at + len(chunk["content"])] = chunk["content"]
            run.preempting |= bool(content.get("preempting"))
            if content.get("complete"):
                run.exitcode = content.get("exitcode")
                preempted = run.preempting and run.exitcode and not run.stopped
                run.state = "preempted" if preempted else "failed" if run.exitcode else "finished"
                if preempted:
                    self.requeue(run)
            return {"stopped": True} if run.stopped else {}

    # Artifacts: tables, and a model's checkpoint.

    def _ArtifactType(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifact": None}}

    def _CreateArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        given = variables["input"]
        self.runs[given["runName"]].artifacts.append(given)
        number = f"artifact{next(self._numbers)}"
        return {
            "createArtifact": {
                "artifact": {"id": number, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
            }
        }

    def _manifest(self) -> dict[str, Any]:
        number = f"manifest{next(self._numbers)}"
        file = {"id": number, "uploadUrl": f"{self.url}/upload/-/{number}", "uploadHeaders": []}
        return {"artifactManifest": {"id": number, "file": file}}

    def _CreateArtifactManifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"createArtifactManifest": self._manifest()}

    def _UpdateArtifactManifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"updateArtifactManifest": self._manifest()}

    def _CreateArtifactFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        edges = []
        for file in variables["input"]["artifactFiles"]:
            path = f"{file['artifactID']}/{file['name']}"
            node = {"storagePath": path, "uploadUrl": f"{self.url}/upload/-/{path}", "uploadHeaders": []}
            edges.append({"node": {**node, "uploadMultipartUrls": None, "artifact": {"id": file["artifactID"]}}})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _CommitArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"commitArtifact": {"artifact": {"id": variables["artifactID"], "digest": "x"}}}


def _grid(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The points of a grid; a nested parameter stays nested, as wandb's server has it."""

    def choices(spec: dict[str, Any]) -> list[Any]:
        return _grid(spec) if "parameters" in spec else spec["values"] if "values" in spec else [spec["value"]]

    parameters = config["parameters"]
    points = itertools.product(*map(choices, parameters.values()))
    return [dict(zip(parameters, point, strict=True)) for point in points][: config.get("run_cap")]


class _Http(ThreadingHTTPServer):
    """A thread for each connection."""

    daemon_threads = True
    closed = False

    def handle_error(self, *words: Any) -> None:
        """Ignore that the other end is gone; any other error is the test's."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(*words)


class _Handler(BaseHTTPRequestHandler):
    """Maps the paths that wandb's programs ask for."""

    protocol_version = "HTTP/1.1"
    server: _Http
    server_of_wandb: WandbServer

    def parse_request(self) -> bool:
        """Read the head of a request; a closed server answers none, and cuts the connection on which it came."""
        parsed = super().parse_request()
        self.close_connection |= self.server.closed  # kept open, wandb would wait three minutes for its answer
        return parsed and not self.server.closed

    def log_message(self, *words: Any) -> None:
        """Print nothing."""

    def _answer(self, content: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(body)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_GET(self) -> None:
        """Health checks."""
        self._answer({})

    def do_POST(self) -> None:
        """GraphQL and file streams."""
        content = json.loads(self._body() or b"{}")
        if self.path.startswith("/graphql"):
            status, answer = self.server_of_wandb.answer(content["query"], content.get("variables") or {})
            self._answer(answer, status)
        elif match := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            self._answer(self.server_of_wandb.stream(match[1], content))
        else:
            self._answer({}, 404)

    def do_PUT(self) -> None:
        """Uploads."""
        _, _, run, name = self.path.split("/", 3)
        data = self._body()
        if run in self.server_of_wandb.runs:
            self.server_of_wandb.runs[run].files[name] = data
        self._answer({})
