"""Ctrl-C ends every benchmark with status 130, a line on stderr, and what was finished."""

from importlib import import_module
from pathlib import Path
import subprocess
import sys

import pytest

from benchmarks.common.interrupts import (
    raise_if_interrupted,
    recorded_interrupts,
    work_then_report,
)

#: By command: the function that is interrupted, and further arguments.
COMMANDS = {
    "defaults.__main__": ("train_and_judge",),
    "density.__main__": ("Bench.run", "--workers", "1", "--quick"),
    "density.variants": ("Bench.run", "--quick"),
    "evidence.__main__": ("measure_all", "--quick"),
    "funnel.__main__": ("run_all", "--quick"),
    "funnel.variants": ("train_arm",),
    "gradients.__main__": ("compare_all",),
    "posterior.__main__": ("run_all", "--quick"),
    "speed.__main__": ("autoencoder", "--quick"),
}


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", COMMANDS)
def test_an_interrupt_before_the_first_result_is_said(name, tmp_path, monkeypatch, capsys):
    target, *arguments = COMMANDS[name]
    module = import_module(f"benchmarks.{name}")
    *parents, attribute = target.split(".")
    owner = getattr(module, parents[0]) if parents else module
    if name == "speed.__main__":
        owner = import_module("benchmarks.speed.run")
    if name == "density.variants":
        monkeypatch.setattr(module, "num_cores", lambda: 1)
    if name.startswith("density"):
        monkeypatch.setattr(module, "draw_pictures", lambda *_: None, raising=False)
    monkeypatch.setattr(owner, attribute, interrupt)
    assert module.main([*arguments, "--out", str(tmp_path)]) == 130
    out, err = capsys.readouterr()
    command = name.removesuffix(".__main__")
    assert f"{command}: interrupted; what was finished is in '{tmp_path}'." in err
    assert "Wrote" not in out
    assert not list(tmp_path.rglob("*partial*"))


def test_the_report_is_written_before_the_interrupt_is_raised_again(capsys):
    written = []
    with pytest.raises(KeyboardInterrupt):
        work_then_report(interrupt, lambda: written.append(1))
    assert written == [1] and capsys.readouterr().err.startswith("Interrupted")
    with pytest.raises(KeyboardInterrupt):
        work_then_report(lambda: None, interrupt)


def test_without_ctrl_c_nothing_is_raised():
    with recorded_interrupts():
        raise_if_interrupted()


def test_an_interrupted_process_ends_with_its_status_whatever_the_clean_up_does():
    code = (
        "import atexit, os; from benchmarks.common.interrupts import end_process\n"
        "atexit.register(os.abort); print('said'); end_process(130)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[3]
    )
    assert (done.returncode, done.stdout) == (130, "said\n")
