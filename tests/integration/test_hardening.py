"""The programs of an optimised build are hardened.  Their ELF files show it."""

import json
import platform
import re
import subprocess
from pathlib import Path

import pytest

from harness import BUILD, program

pytestmark = pytest.mark.plain


def readelf(*args):
    return subprocess.run(["readelf", "-W", *args], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("name", ("drover", "drover-node", "droverctl", "drover-sim"))
def test_a_program_is_hardened(name):
    path = program(name)
    assert re.search(r"Type: +DYN", readelf("-h", path)), "no position-independent executable"
    segments = readelf("-l", path)
    assert "GNU_RELRO" in segments
    assert re.search(r"GNU_STACK .* RW ", segments), "an executable stack"
    dynamic = readelf("-d", path)
    assert re.search(r"FLAGS_1\).*\bNOW\b.*\bPIE\b", dynamic), dynamic
    imported = readelf("--dyn-syms", path)
    assert "__stack_chk_fail" in imported, "no stack protector"
    assert re.search(r"UND __\w+_chk@", imported), "no fortified function"
    if platform.machine() == "x86_64":
        # endbr64.  The property in the notes is not set: Debian 12's crt files have none.
        assert Path(path).read_bytes().count(b"\xf3\x0f\x1e\xfa") > 100, "no -fcf-protection"


def test_each_file_is_compiled_with_all_of_it():
    wanted = {"-fstack-protector-strong", "-fstack-clash-protection", "-D_FORTIFY_SOURCE=3", "-fPIE"}
    ours = re.compile("/(base|policy|shm|proto|worker|health|node|sim|master|droverctl)/[^/]")
    for entry in json.loads((Path(BUILD) / "compile_commands.json").read_text()):
        if "/tests/" in entry["file"] or not ours.search(entry["file"]):
            continue
        lacks = wanted - set(entry["command"].split())
        assert not lacks, f"{entry['file']}: {lacks}"
