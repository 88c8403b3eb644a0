"""The commands of docs/security.md, run as they stand there."""

import os
import re
import subprocess

import pytest

from harness import ROOT, SLOW, Node, Process, free_port, program, until

BLOCKS = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs/security.md").read_text(), re.M | re.S)


@pytest.fixture
def shell(make_cluster):
    """Runs blocks in a folder of their own, with our programs on the PATH and free ports."""
    cluster = make_cluster(token=False)
    folders = {os.path.dirname(program(name)) for name in ("drover", "drover-node", "droverctl")}
    env = dict(os.environ, PATH=":".join([*folders, os.environ["PATH"]]))
    _, engine = cluster.start_engine()
    ports = {"8080": str(free_port()), "8082": str(free_port()), "11434": engine.rsplit(":", 1)[1]}

    def adapt(block):
        return re.sub("808[02]|11434", lambda match: ports[match.group()], block)

    class Shell:
        def run(self, block, check=True):
            return subprocess.run(["sh", "-euc", adapt(block)], cwd=cluster.dir, env=env,
                                  check=check, capture_output=True, text=True, timeout=120 * SLOW)

        def start(self, command, name):
            process = Process(["sh", "-euc", f"cd {cluster.dir}; exec {adapt(command)}"],
                              cluster.dir / f"{name}.log", env=env)
            cluster.others.append(process)
            return process

        def start_drover(self):
            with open(cluster.dir / "drover.yaml", "a", encoding="utf-8") as config:
                config.write(f"admin: {{listen: 'unix:{cluster.runtime}/admin.sock'}}\n"
                             f"runtime_dir: {cluster.runtime}\nhealth: {{interval_ms: 200}}\n")
            process = self.start("drover -c drover.yaml", "drover")
            until(lambda: (cluster.runtime / "addresses").exists() and cluster.worker_pids(), 15)
            return process

        def port(self, name):
            return ports[name]

    return cluster, Shell()


def test_an_api_key_is_made_and_opens(shell):
    cluster, sh = shell
    making, using = BLOCKS[0].split("curl ")
    sh.run(making)
    sh.start_drover()
    until(lambda: '"object":"list"' in sh.run("curl -sS " + using).stdout, 20,
          "no former node is waited for")
    refused = sh.run("curl -sS http://127.0.0.1:8080/v1/models")
    assert "invalid_api_key" in refused.stdout


def test_mutual_tls_is_set_up(shell):
    cluster, sh = shell
    authority, coordinator, node = BLOCKS[1:4]
    sh.run(authority)
    sh.run(coordinator)
    sh.start_drover()
    process = sh.start(node.strip() + " --listen 127.0.0.1:0", "tower")
    cluster.wait_up("tower", Node(process, "tower"))
    answer = sh.run("curl -sS --cacert ca.crt https://localhost:8080/v1/models")
    assert '"sim-small"' in answer.stdout
