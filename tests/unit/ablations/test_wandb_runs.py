"""Tables from wandb's API, through wandb's own client, against a small server that hands out pages as wandb's does."""

import contextlib
import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from command_line import python

from dcnlab.ablations.tables import build_table
from dcnlab.config.load import from_yaml, to_yaml
from dcnlab.io.errors import ConfigError
from dcnlab.training.loggers import wandb_run

PAGE = 2
"""The server's largest page, whatever is asked for."""


class Wandb(BaseHTTPRequestHandler):
    """Answers the GraphQL queries that listing runs takes; `runs` of the server are (sweep, node)."""

    def do_POST(self):
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/graphql":  # telemetry
            return self.send_error(404)
        asked = json.loads(gzip.decompress(sent) if sent[:2] == b"\x1f\x8b" else sent)
        query, variables = asked["query"], asked.get("variables") or {}
        data = {"viewer": {"id": "1", "entity": "team", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        if "runs(" in query and "GetSweep" not in query:
            data = {"project": self._runs(variables)}
        elif "sweep(" in query:
            known = {sweep for sweep, _ in self.server.runs}
            name = variables.get("name")
            sweep = {"id": "1", "name": name, "state": "FINISHED", "config": "{}", "bestLoss": None, "runCount": 1}
            data = {"project": {"sweep": sweep if name in known else None}}
        body = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _runs(self, variables):
        if variables["project"] != "project":
            return None
        self.server.pages += 1
        wanted = json.loads(variables["filters"]).get("sweep")
        chosen = [node for sweep, node in self.server.runs if wanted in (None, sweep)]
        start = int(variables.get("cursor") or 0)
        page = chosen[start : start + min(PAGE, variables["perPage"])]
        edges = [{"node": node, "cursor": str(start + at + 1)} for at, node in enumerate(page)]
        info = {"endCursor": str(start + len(page)), "hasNextPage": start + len(page) < len(chosen)}
        return {
            "internalId": "1",
            "runCount": len(chosen),
            "readOnly": False,
            "runs": {"edges": edges, "pageInfo": info},
        }

    def log_message(self, *words):
        pass


@pytest.fixture
def server():
    """The server, with runs of two sweeps: layers 0 and 3 at three seeds, and one run of another."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Wandb) as found:
        found.runs, found.pages = [], 0
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


def node(number, layers, seed, miou, **changes):
    """A run as wandb's server describes it, under an agent's config: the swept section stands alone."""
    tree = {
        "name": "some",
        "task": "segmentation",
        "seed": seed,
        "data": {"name": "camvid", "root": "CamVid"},
        "model": {"name": "deeplab", "deform_layers": layers},
        "trainer": {"max_steps": 1},
    }
    config = from_yaml(yaml.safe_dump(tree), "test")
    results = {
        "schema": 1,
        "name": "some",
        "status": "finished",
        "seed": seed,
        "parameters": {"model.deform_layers": layers, "seed": seed},
        "metrics": {"miou": miou},
        "model": {"params": 1000, "macs": 2_000_000},
        "cost": {"train_seconds": 10.0},
        "environment": {"git": "abc", "torch": "2"},
        "wandb": {"id": f"run{number}", "sweep": "s1"},
    }
    mirrored = {"model": {"deform_layers": layers}, wandb_run.CONFIG: to_yaml(config)}
    return {
        "id": str(number),
        "name": f"run{number}",
        "displayName": "some/x",
        "state": "finished",
        "config": json.dumps({key: {"value": value, "desc": None} for key, value in mirrored.items()}),
        "summaryMetrics": json.dumps({"miou": 1.0, wandb_run.RESULTS: json.dumps(results)}),
        "systemMetrics": "{}",
        "createdAt": f"2026-01-01T00:00:0{number % 10}Z",
        "heartbeatAt": "2026-01-01T00:00:00Z",
        "sweepName": "s1",
        "tags": [],
        "group": None,
        "jobType": None,
        "commit": None,
        "readOnly": False,
        "description": "",
        "notes": "",
        "historyLineCount": 1,
        "user": {"name": "me", "username": "me"},
        "historyKeys": None,
        "projectId": "1",
        **changes,
    }


def ask(server, folder, path, *words, key="0" * 40):
    """`dcnlab table` against the server, in the folder."""
    address = f"http://127.0.0.1:{server.server_address[1]}"
    known = {"WANDB_BASE_URL": address, "WANDB_DIR": str(folder), "HOME": str(folder), "NETRC": str(folder / "netrc")}
    known |= {"WANDB_API_KEY": key} if key else {}
    with contextlib.chdir(folder):
        return python("-m", "dcnlab", "table", *words, "--wandb", path, **known)


def test_a_wandb_table_reads_all_pages_of_one_sweep(server, tmp_path):
    """Runs on every result page count, other sweeps' runs do not, and a crashed run is noted."""
    scores = {0: (40.0, 41.0, 45.0), 3: (44.0, 46.0, 45.0)}
    for layers, values in scores.items():
        for seed, miou in enumerate(values):
            server.runs.append(("s1", node(len(server.runs), layers, seed, miou)))
    server.runs.append(("s2", node(8, 3, 7, 99.0)))
    server.runs.append(("s1", node(9, 3, 9, 99.0, state="crashed", summaryMetrics="{}")))
    server.runs.append(("s1", node(10, 3, 9, 99.0, config=json.dumps({wandb_run.TABLE: {"value": "a table"}}))))
    done = ask(server, tmp_path, "team/project/s1", "table1", "--format", "json")
    assert done.returncode == 0, done.stderr
    rows = {row["model.deform_layers"]: row for row in json.loads(done.stdout)}
    assert (rows[0]["miou"], rows[3]["miou"], rows[3]["miou_difference"]) == (42.0, 45.0, 3.0)
    assert rows[3]["miou_differences"] == {"0": 4.0, "1": 5.0, "2": 0.0}
    assert (rows[3]["seeds"], rows[1]["seeds"]) == (3, 0)
    assert server.pages == 4  # eight runs of the sweep, two a page
    assert "left out: 1 run crashed without results" in done.stderr
    assert done.stderr.count("left out") == 1  # a table that was sent is no training, and needs no note


@pytest.mark.parametrize(
    ("path", "key", "says"),
    [
        ("team/project/s3", "0" * 40, "team/project/s3: Could not find sweep"),
        ("team/other", "0" * 40, "team/other: Could not find project"),
        ("team/project/s1", None, "team/project/s1: there is no key"),
    ],
)
def test_missing_wandb_objects_are_one_line(server, tmp_path, path, key, says):
    """An unknown sweep or project and a missing key each give exit status 2 and one line."""
    server.runs.append(("s1", node(0, 0, 0, 40.0)))
    done = ask(server, tmp_path, path, "table1", key=key)
    assert done.returncode == 2, done.stdout + done.stderr
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("path", ["team", "team//s1", "team/project/s1/x"])
def test_a_wandb_path_must_be_entity_project_sweep(tmp_path, path):
    """Fewer or more parts, or an empty part, are refused before any request."""
    with pytest.raises(ConfigError, match="must be ENTITY/PROJECT/SWEEP"):
        build_table.assemble("table1", [tmp_path], wandb=path)
