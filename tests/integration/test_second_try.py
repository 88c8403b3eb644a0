"""scripts/test: what a second try may make good, and what not."""

import os
import re
import subprocess

import pytest

from harness import ROOT, SLOW

TEXT = (ROOT / "scripts/test").read_text()
CASES = """<testsuites><testsuite>
<testcase classname="t.a" name="good"/>
<testcase classname="t.a" name="late"><failure message="Timeout">after 5 s still not: up</failure></testcase>
<testcase classname="t.a" name="mounts"><skipped message="only root can mount one"/></testcase>
%s</testsuite></testsuites>"""
REPORT = """<testcase classname="t.a" name="leaks"><failure message="AssertionError">a report:
==7==ERROR: AddressSanitizer: heap-use-after-free</failure></testcase>"""


def function(name):
    return re.search(rf"^{name}\(\) \{{\n.*?^\}}$", TEXT, re.M | re.S).group(0)


def call(name, *arguments):
    """A function of the script, by itself."""
    return subprocess.run(["bash", "-euc", f'work=/nonexistent\npython=/usr/bin/python3\n{function(name)}\n{name} "$@"',
                           name, *map(str, arguments)], capture_output=True, text=True, check=True)


def junit(what, *paths):
    return call("junit", what, *paths).stdout.split()


def write_results(path, text, status=0):
    path.write_text(text)
    (path.parent / (path.name + ".status")).write_text(f"{status}\n")


def test_a_sanitizers_report_gets_no_second_try(tmp_path):
    (tmp_path / "late.xml").write_text(CASES % "")
    (tmp_path / "leaks.xml").write_text(CASES % REPORT)
    assert junit("reports", tmp_path / "late.xml") == ["0"]
    assert junit("reports", tmp_path / "leaks.xml") == ["1"]
    assert junit("failed", tmp_path / "leaks.xml")[-1] == "t/a.py::leaks"


def test_a_run_that_left_no_results_is_a_failure(tmp_path):
    write_results(tmp_path / "good.xml", CASES.replace("<failure", "<not").replace("</failure", "</not")
                  .replace("<skipped", "<not") % "")
    write_results(tmp_path / "cut.xml", CASES[:80])
    assert junit("totals", tmp_path / "good.xml") == ["3", "0"]
    assert junit("totals", tmp_path / "good.xml", tmp_path / "cut.xml") == ["3", "1"]
    assert junit("totals", tmp_path / "good.xml", tmp_path / "none.xml") == ["3", "1"]


@pytest.mark.parametrize("end, totals", [
    ("pass", ["1", "0"]),
    ("raise AssertionError", ["0", "1"]),
    ("raise KeyboardInterrupt", ["1", "1"]),
    ("os.kill(os.getpid(), 9)", ["0", "1"]),
    ("atexit.register(os.kill, os.getpid(), 9)", ["1", "1"]),  # all results are written
])
def test_a_run_that_was_cut_off_is_a_failure_whatever_its_results_are(tmp_path, end, totals):
    (tmp_path / "test_a.py").write_text(
        f"import atexit, os\n\n\ndef test_one():\n    pass\n\n\ndef teardown_module():\n    {end}\n")
    call("pytest_once", tmp_path / "log", tmp_path / "junit.xml", "", f"--rootdir={tmp_path}", tmp_path)
    assert junit("totals", tmp_path / "junit.xml") == totals
    done = call("junit", "totals", tmp_path / "junit.xml")
    assert ("lost: " in done.stderr) == (end not in ("pass", "raise AssertionError")), done.stderr


def test_nothing_to_run_is_no_failure_of_one_of_several_runs(tmp_path):
    (tmp_path / "test_a.py").write_text("def test_one():\n    pass\n")
    for name, wanted in ("a", "one"), ("b", "two"):
        call("pytest_once", tmp_path / "log", tmp_path / name, "", f"--rootdir={tmp_path}", tmp_path, "-k", wanted)
    assert junit("totals", tmp_path / "a", tmp_path / "b") == ["1", "0"]
    assert junit("totals", tmp_path / "b") == ["0", "1"]


def test_unit_tests_that_were_cut_off_are_a_failure(tmp_path):
    for status, totals in (0, "1 0"), (8, "1 0"), (137, "1 1"):
        (tmp_path / "ctest").write_text(f"#!/bin/sh\necho '1/1 Test #1: unit.a ...   Passed  1.00 sec'\nexit {status}\n")
        (tmp_path / "ctest").chmod(0o755)
        script = f"""logs={tmp_path} python=/usr/bin/python3 JOBS=1 no_aslr=() PATH={tmp_path}:$PATH
say() {{ :; }}
note_flaky() {{ :; }}
count() {{ echo "$@"; }}
{function("run_ctest")}
run_ctest units {tmp_path} 2"""
        done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == totals, done.stdout + done.stderr


def test_two_runs_that_share_claims_run_each_file_once(tmp_path):
    claims, tests = tmp_path / "claims", tmp_path / "tests"
    claims.mkdir()
    (tests / "more").mkdir(parents=True)
    for name in "a", "b", "c", "d", "e", "more/a":
        folder, _, base = name.rpartition("/")
        (tests / folder / f"test_{base}.py").write_text(
            f"def test_one():\n    open({str(tmp_path / 'ran')!r}, 'a').write('{name[0]}')\n\n\ntest_two = test_one\n")
    (claims / "test_c.py").touch()  # that of another run
    # A file whose tests do not follow each other is one file all the same.
    order = [tests / name for name in ("test_a.py::test_one", "test_b.py", "test_a.py::test_two", "test_c.py",
                                       "test_d.py", "test_e.py", "more")]
    runs = [subprocess.Popen(["/usr/bin/python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "conftest",
                              "--import-mode=importlib", "--rootdir", str(tests), f"--claims={claims}",
                              *map(str, order)],
                             env={**os.environ, "PYTHONPATH": str(ROOT / "tests/integration")},
                             stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [run.wait(60 * SLOW) for run in runs] == [0, 0]
    assert sorted((tmp_path / "ran").read_text()) == sorted("abdem" * 2)


def may_mount():
    with open("/proc/self/status", encoding="ascii") as status:
        return int(re.search(r"^CapEff:\s*(\w+)", status.read(), re.M).group(1), 16) >> 21 & 1


def test_a_skip_for_want_of_root_is_a_failure_only_where_it_could_run(tmp_path):
    path = tmp_path / "junit.xml"
    write_results(path, CASES % "")
    assert junit("totals", path) == ["1", "2" if may_mount() else "1"]
    if os.geteuid() == 0 and may_mount():   # as root of a container without the right
        os.chmod(tmp_path, 0o755)
        less = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "bash", "-c"]
        done = subprocess.run([*less, f'python=/usr/bin/python3\n{function("junit")}\njunit "$@"', "junit", "totals", str(path)],
                              capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["1", "1"]


FLAKY = """test 1
    Start 1: unit.a
1: %s
1/2 Test #1: unit.a ...........***Failed  1.00 sec
    Start 1: unit.a
1/2 Test #1: unit.a ...........   Passed  1.00 sec
"""


def test_a_report_of_a_unit_test_that_does_not_repeat_is_a_failure(tmp_path):
    program = re.search(r'<<\'PY\'\n(import re\nimport sys\ntext = .*?)^PY$', TEXT, re.M | re.S).group(1)
    results = {}
    for name, line in (("late", "it took too long"), ("race", "WARNING: ThreadSanitizer: data race"),
                       ("shift", "a.c:3:4: runtime error: shift exponent 64")):
        log = tmp_path / name
        log.write_text(FLAKY % line)
        done = subprocess.run(["/usr/bin/python3", "-c", program, str(log), f"{log}.flaky"], capture_output=True,
                              text=True, check=True)
        results[name] = done.stdout.split(), (tmp_path / f"{name}.flaky").read_text().split()
    assert results == {"late": (["1", "0"], ["unit.a"]), "race": (["0", "1"], []), "shift": (["0", "1"], [])}
