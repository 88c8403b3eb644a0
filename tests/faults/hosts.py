"""hosts.py - hosts of their own for nodes: network namespaces, joined to ours by a pair of veth.

scripts/test-faults runs in a private network and mount namespace, so nothing of this is seen by the
machine, and nothing is left if the runner is killed.
"""

import os
import subprocess

NET = "10.213"


def run(*argv):
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


class Host:
    """One namespace; `ours` is our address on the wire to it, `address` its own."""

    def __init__(self, number):
        self.name = f"drover{number}"
        self.link = f"dv{number}"
        self.ours = f"{NET}.{number}.1"
        self.address = f"{NET}.{number}.2"
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", self.link, "type", "veth", "peer", "name", "eth0",
            "netns", self.name)
        run("ip", "addr", "add", f"{self.ours}/30", "dev", self.link)
        run("ip", "link", "set", self.link, "up")
        self.inside("ip", "addr", "add", f"{self.address}/30", "dev", "eth0")
        self.inside("ip", "link", "set", "eth0", "up")
        self.inside("ip", "link", "set", "lo", "up")
        self.inside("nft", "add", "table", "inet", "t")
        for hook in ("input", "output"):
            self.inside("nft", "add", "chain", "inet", "t", hook,
                        f"{{ type filter hook {hook} priority 0; }}")

    def argv(self, *argv):
        """A command line that runs there."""
        return ["ip", "netns", "exec", self.name, *argv]

    def inside(self, *argv):
        return run(*self.argv(*argv))

    def drop(self, hook, *match):
        """A rule that drops what comes in ("input") or goes out ("output"), matched by nft."""
        self.inside("nft", "add", "rule", "inet", "t", hook, *match, "drop")

    def cut(self):
        """Nothing passes either way, and no side gets an error."""
        self.drop("input", "iifname", "eth0")
        self.drop("output", "oifname", "eth0")

    def heal(self):
        for hook in ("input", "output"):
            self.inside("nft", "flush", "chain", "inet", "t", hook)

    def close(self):
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)


class Hosts:
    made = 0

    def __init__(self):
        self.hosts = []

    def add(self):
        Hosts.made += 1
        host = Host(Hosts.made)
        self.hosts.append(host)
        return host

    def close(self):
        for host in self.hosts:
            host.close()
        self.hosts = []


def available():
    return os.geteuid() == 0 and os.environ.get("DROVER_FAULTS_PRIVATE") == "1"
