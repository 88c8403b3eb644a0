"""scripts/test: what a second try may make good, and what not."""

import os
import re
import subprocess

from harness import ROOT, SLOW

TEXT = (ROOT / "scripts/test").read_text()
CASES = """<testsuites><testsuite>
<testcase classname="t.a" name="good"/>
<testcase classname="t.a" name="late"><failure message="Timeout">after 5 s still not: up</failure></testcase>
<testcase classname="t.a" name="mounts"><skipped message="only root can mount one"/></testcase>
%s</testsuite></testsuites>"""
REPORT = """<testcase classname="t.a" name="leaks"><failure message="AssertionError">a report:
==7==ERROR: AddressSanitizer: heap-use-after-free</failure></testcase>"""


def junit(what, *paths):
    """The function of the script, on a file of its own."""
    body = re.search(r"^junit\(\) \{\n.*?^\}$", TEXT, re.M | re.S).group(0)
    done = subprocess.run(["bash", "-c", f'python=/usr/bin/python3\n{body}\njunit "$@"', "junit", what, *map(str, paths)],
                          capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_sanitizers_report_gets_no_second_try(tmp_path):
    (tmp_path / "late.xml").write_text(CASES % "")
    (tmp_path / "leaks.xml").write_text(CASES % REPORT)
    assert junit("reports", tmp_path / "late.xml") == ["0"]
    assert junit("reports", tmp_path / "leaks.xml") == ["1"]
    assert junit("failed", tmp_path / "leaks.xml")[-1] == "t/a.py::leaks"


def test_a_run_that_left_no_results_is_a_failure(tmp_path):
    (tmp_path / "good.xml").write_text(CASES.replace("<failure", "<not").replace("</failure", "</not")
                                       .replace("<skipped", "<not") % "")
    (tmp_path / "cut.xml").write_text(CASES[:80])
    assert junit("totals", tmp_path / "good.xml") == ["3", "0"]
    assert junit("totals", tmp_path / "good.xml", tmp_path / "cut.xml") == ["3", "1"]
    assert junit("totals", tmp_path / "good.xml", tmp_path / "none.xml") == ["3", "1"]


def test_two_runs_that_share_claims_run_each_file_once(tmp_path):
    claims, tests = tmp_path / "claims", tmp_path / "tests"
    claims.mkdir()
    tests.mkdir()
    for name in "abcdef":
        (tests / f"test_{name}.py").write_text(
            f"def test_one():\n    open({str(tmp_path / 'ran')!r}, 'a').write('{name}')\n\n\ntest_two = test_one\n")
    (claims / "test_c.py").touch()  # that of another run
    runs = [subprocess.Popen(["/usr/bin/python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "conftest",
                              "--rootdir", str(tests), f"--claims={claims}", str(tests)],
                             env={**os.environ, "PYTHONPATH": str(ROOT / "tests/integration")},
                             stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [run.wait(60 * SLOW) for run in runs] == [0, 0]
    assert sorted((tmp_path / "ran").read_text()) == sorted("abdef" * 2)


def may_mount():
    with open("/proc/self/status", encoding="ascii") as status:
        return int(re.search(r"^CapEff:\s*(\w+)", status.read(), re.M).group(1), 16) >> 21 & 1


def test_a_skip_for_want_of_root_is_a_failure_only_where_it_could_run(tmp_path):
    path = tmp_path / "junit.xml"
    path.write_text(CASES % "")
    assert junit("totals", path) == ["1", "2" if may_mount() else "1"]
    if os.geteuid() == 0 and may_mount():   # as root of a container without the right
        os.chmod(tmp_path, 0o755)
        less = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "bash", "-c"]
        body = re.search(r"^junit\(\) \{\n.*?^\}$", TEXT, re.M | re.S).group(0)
        done = subprocess.run([*less, f'python=/usr/bin/python3\n{body}\njunit "$@"', "junit", "totals", str(path)],
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
