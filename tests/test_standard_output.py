"""What a command prints, where nobody can read it any more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distributed_fmlp.standard_output import lasting
from tests.synthetic_run import make_run


def test_a_stream_goes_on_when_its_reader_has_gone() -> None:
    reader, writer = os.pipe()
    stream = lasting(writer, "utf-8")
    print("first", file=stream, flush=True)
    assert os.read(reader, 100) == b"first\n"
    os.close(reader)
    for line in range(3):
        print(line, file=stream, flush=True)
    stream.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_report_that_can_not_be_told_is_one_line_and_one_whose_reader_left_none(
    tmp_path: Path,
) -> None:
    path = make_run(tmp_path / "run", rates=(0.001,), epochs=2)
    words = [sys.executable, "-m", "distributed_fmlp.report", str(path)]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "standard output can't be written (No space left on device)" in line
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
