"""USR1 after a rotation: no line is lost, whatever has become of the files."""

import json
import os
import signal

import pytest

from harness import until
from load import Load, chat_body, fetch_now


@pytest.fixture
def logged(make_cluster):
    made = make_cluster()
    folder = made.dir / "logs"
    folder.mkdir()
    made.access_log_path = folder / "access.log"
    made.settings["log"].update(access=str(made.access_log_path), file=str(folder / "own.log"))
    made.start()
    made.folder = folder
    made.start_node("a", "slots=32,rate=200")
    return made


def ids(*paths):
    found = []
    for path in paths:
        found += [json.loads(line)["id"] for line in path.read_text().splitlines()]
    return found


def rotated(cluster):
    """USR1, and all processes have followed: each has the new file open and the old one not."""
    reopened = cluster.folder / "own.log"
    before = reopened.read_text().count("event=logs_reopened") if reopened.exists() else 0
    cluster.master.signal(signal.SIGUSR1)
    until(lambda: reopened.exists()
          and reopened.read_text().count("event=logs_reopened") > before, 10, "USR1 is followed")


def test_no_line_is_lost_when_files_are_renamed_under_load(logged):
    access, own = logged.access_log_path, logged.folder / "own.log"
    with Load(logged.api, concurrency=16, tokens=8, prompts=4) as load:
        for turn in range(1, 4):
            target = load.done + 30
            until(lambda target=target: load.done >= target or load.failures, 30)
            access.rename(logged.folder / f"access.log.{turn}")
            own.rename(logged.folder / f"own.log.{turn}")
            rotated(logged)
            until(access.exists, 10, "the access log is there again")
    assert not load.failures, load.failures[:3]
    files = [access] + [logged.folder / f"access.log.{turn}" for turn in (1, 2, 3)]
    expected = load.done + len(load.prompts)  # the load learns each prompt's answer first
    until(lambda: len(ids(*files)) == expected, 10, f"{expected} lines in all")
    assert len(set(ids(*files))) == expected
    assert "lines_lost" not in own.read_text()


def test_a_deleted_file_is_made_again(logged):
    logged.access_log_path.unlink()
    (logged.folder / "own.log").unlink()
    rotated(logged)
    answer = fetch_now(logged.api, "POST", "/v1/chat/completions",
                       chat_body("hi", 2, stream=False))
    logged.access_line(answer.headers["x-request-id"])


def test_a_file_that_cannot_be_made_leaves_the_old_one_in_use_and_is_reported(logged):
    moved = logged.folder.with_name("moved")
    logged.folder.rename(moved)  # the folder is gone, and its files are open still
    logged.master.signal(signal.SIGUSR1)
    text = moved / "own.log"
    until(lambda: text.read_text().count("event=log_reopen_failed") >= 4, 10,
          "master, health and workers say so")
    answer = fetch_now(logged.api, "POST", "/v1/chat/completions",
                       chat_body("hi", 2, stream=False))
    until(lambda: answer.headers["x-request-id"] in ids(moved / "access.log"), 10,
          "the line is in the old file")
    moved.rename(logged.folder)
    rotated(logged)
    assert "No such file" in (logged.folder / "own.log").read_text()


def test_a_worker_that_replaces_a_dead_one_serves_without_its_access_log(logged):
    logged.access_log_path.unlink()
    logged.access_log_path.mkdir()
    old = set(logged.worker_pids())
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(now := set(logged.worker_pids())) == 2 and not now & old, 15, "new workers")
    own = logged.folder / "own.log"
    assert own.read_text().count("event=access_log_not_opened") == 2
    assert fetch_now(logged.api, "POST", "/v1/chat/completions", chat_body("x", 2)).status == 200
    logged.access_log_path.rmdir()
    until(lambda: own.read_text().count("event=log_opened") == 2, 10, "it is opened without a signal")
    assert fetch_now(logged.api, "POST", "/v1/chat/completions", chat_body("x", 2)).status == 200
    until(lambda: ids(logged.access_log_path), 5)
    logged.ctl("reload")
    logged.access_log_path.unlink()
    logged.access_log_path.mkdir()
    refused = logged.ctl("reload", check=False)
    assert refused.returncode == 1 and "Is a directory" in refused.stderr
    logged.access_log_path.rmdir()
