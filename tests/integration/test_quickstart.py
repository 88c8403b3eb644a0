"""scripts/quickstart as a newcomer runs it, and the usage of the scripts."""

import os
import signal
import subprocess

import pytest

from harness import BUILD, ROOT, SLOW, session_members, until

ENV = dict(os.environ, DROVER_BUILD=str(BUILD))


def start(*args):
    return subprocess.Popen([str(ROOT / "scripts/quickstart"), *args], env=ENV, text=True,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, start_new_session=True)


def assert_shown(text):
    for node in ("node-1", "node-2"):
        assert node in text, text
    assert "UP" in text


def assert_nothing_left(process):
    until(lambda: not session_members(process.pid), 10, "no process is left")


def test_once_shows_tokens_and_nodes_and_leaves_no_process_twice_in_a_row():
    for _ in range(2):
        process = start("--once")
        text, _ = process.communicate(timeout=120 * SLOW)
        assert process.returncode == 0, text
        assert_shown(text)
        assert "OPENAI_BASE_URL" not in text, "the server has ended"
        assert_nothing_left(process)


def test_two_at_the_same_time_take_different_ports_and_say_so():
    processes = [start("--once"), start("--once")]
    for process in processes:
        text, _ = process.communicate(timeout=120 * SLOW)
        assert process.returncode == 0, text
        assert_shown(text)
        assert_nothing_left(process)


def test_control_c_leaves_no_process_behind():
    for number in (signal.SIGINT, signal.SIGTERM):
        process = start()
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        assert_shown("".join(lines))
        assert "OPENAI_BASE_URL" in "".join(lines)
        os.killpg(process.pid, number)
        process.stdout.read()
        process.wait(60 * SLOW)
        assert_nothing_left(process)


@pytest.mark.parametrize("name", ["quickstart", "setup", "build", "test"])
def test_help_shows_a_usage_and_does_nothing(tmp_path, name):
    """Without a PATH to apt-get, cmake and git there is nothing that could be done."""
    for tool in ("sed", "bash", "env", "dirname"):
        (tmp_path / tool).symlink_to(f"/bin/{tool}")
    done = subprocess.run([str(ROOT / "scripts" / name), "--help"], env={"PATH": str(tmp_path)},
                          capture_output=True, text=True, timeout=20 * SLOW)
    assert done.returncode == 0, done.stderr
    assert f"scripts/{name} " in done.stdout and done.stderr == ""


@pytest.mark.parametrize("name", ["quickstart", "setup", "test"])
def test_a_typo_is_an_error_with_the_usage_before_anything_is_done(tmp_path, name):
    for tool in ("sed", "bash", "env", "dirname"):
        (tmp_path / tool).symlink_to(f"/bin/{tool}")
    done = subprocess.run([str(ROOT / "scripts" / name), "--hlep"], env={"PATH": str(tmp_path)},
                          capture_output=True, text=True, timeout=20 * SLOW)
    assert done.returncode == 2
    assert "'--hlep'" in done.stderr and f"scripts/{name} " in done.stderr
