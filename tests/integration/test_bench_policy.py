"""scripts/bench-policy: the gate runs, says the same twice, and judges by its bounds."""

import importlib.machinery
import importlib.util
import json
import subprocess
import sys

import pytest

from harness import BUILD, ROOT

sys.path.insert(0, str(ROOT / "scripts"))

import benchload  # noqa: E402

pytestmark = pytest.mark.alone

SCRIPT = ROOT / "scripts/bench-policy"


def bench_policy():
    loader = importlib.machinery.SourceFileLoader("bench_policy", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def run(tmp_path, *more):
    out = tmp_path / "out.json"
    done = subprocess.run([SCRIPT, "--build", BUILD, "--requests", "200", "--seeds", "1", "--json", out, *more],
                          capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (0, 1), done.stderr
    return json.loads(out.read_text()), done.stdout


def test_the_same_requests_give_the_same_figures(tmp_path):
    first, text = run(tmp_path, "--only", "hom8 middle")
    again, _ = run(tmp_path, "--only", "hom8 middle")
    assert first == again
    assert [p["name"] for p in first["points"]] == ["sessions hom8 middle", "unshared hom8 middle"]
    assert "of 2 points PASS" in text


def test_no_policy_is_below_the_floor_and_the_oracle_is_above_it(tmp_path):
    record, _ = run(tmp_path, "--only", "fan-outs")
    for point in record["points"]:
        for runs in point["runs"]:
            least = runs["floor"]["ttft_mean_s"]
            assert all(figures["ttft_mean_s"] >= least for figures in runs.values()), point["name"]


def test_a_figure_beyond_its_bound_fails_the_point():
    module = bench_policy()
    good = {"ttft_mean_s": 1.0, "ttft_p99_s": 4.0, "goodput": 0.9}
    names = (module.OURS, module.ORACLE) + module.PEERS
    point = module.Point("sessions", "home", "light", 0.01)
    assert all(mark[3] for mark in module.judge(point, [{name: good for name in names}]))
    for key, worse in (("ttft_mean_s", 1.06), ("ttft_p99_s", 4.9), ("goodput", 0.88)):
        runs = {name: dict(good) for name in names}
        runs[module.OURS][key] = worse
        assert not all(mark[3] for mark in module.judge(point, [runs])), key


@pytest.mark.parametrize("generate", [benchload.generate_mixed, benchload.generate_bursts,
                                      benchload.generate_fan_outs])
def test_generated_requests_come_in_order_and_follow_from_the_seed(generate):
    requests = generate(300, 1)
    assert requests == generate(300, 1) and requests != generate(300, 2)
    assert [r.at_s for r in requests] == sorted(r.at_s for r in requests)
    assert len(requests) == 300 and all(r.prompt > 0 and r.output > 0 for r in requests)
