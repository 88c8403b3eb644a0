"""scripts/test: what a second try may make good, and what not."""

import os
import re
import subprocess

from harness import ROOT

TEXT = (ROOT / "scripts/test").read_text()
CASES = """<testsuites><testsuite>
<testcase classname="t.a" name="good"/>
<testcase classname="t.a" name="late"><failure message="Timeout">after 5 s still not: up</failure></testcase>
<testcase classname="t.a" name="mounts"><skipped message="only root can mount one"/></testcase>
%s</testsuite></testsuites>"""
REPORT = """<testcase classname="t.a" name="leaks"><failure message="AssertionError">a report:
==7==ERROR: AddressSanitizer: heap-use-after-free</failure></testcase>"""


def junit(path, what):
    """The function of the script, on a file of its own."""
    body = re.search(r"^junit\(\) \{\n.*?^\}$", TEXT, re.M | re.S).group(0)
    done = subprocess.run(["bash", "-c", f'python=/usr/bin/python3\n{body}\njunit "$@"', "junit", str(path), what],
                          capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_sanitizers_report_gets_no_second_try(tmp_path):
    (tmp_path / "late.xml").write_text(CASES % "")
    (tmp_path / "leaks.xml").write_text(CASES % REPORT)
    assert junit(tmp_path / "late.xml", "reports") == ["0"]
    assert junit(tmp_path / "leaks.xml", "reports") == ["1"]
    assert junit(tmp_path / "leaks.xml", "failed")[-1] == "t/a.py::leaks"


def may_mount():
    with open("/proc/self/status", encoding="ascii") as status:
        return int(re.search(r"^CapEff:\s*(\w+)", status.read(), re.M).group(1), 16) >> 21 & 1


def test_a_skip_for_want_of_root_is_a_failure_only_where_it_could_run(tmp_path):
    path = tmp_path / "junit.xml"
    path.write_text(CASES % "")
    assert junit(path, "totals") == ["1", "2" if may_mount() else "1"]
    if os.geteuid() == 0 and may_mount():   # as root of a container without the right
        os.chmod(tmp_path, 0o755)
        less = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "bash", "-c"]
        body = re.search(r"^junit\(\) \{\n.*?^\}$", TEXT, re.M | re.S).group(0)
        done = subprocess.run([*less, f'python=/usr/bin/python3\n{body}\njunit "$@"', "junit", str(path), "totals"],
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
