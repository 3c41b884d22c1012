"""How tests compile: most functions run once, so that compiling them is most of the time."""

from functools import partial
import os
import re
import subprocess
import sys
import tempfile

import jax

#: Code is generated at once and hardly optimised: compiled in a fifth of the time, run slower.
_FLAGS = (
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_opt_preset=CPU_OPT_PRESET_FAST_COMPILE",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_cpu_use_fusion_emitters=false",
)

#: ``jax.jit`` for functions that run for seconds: compiled in twice the time, run in a quarter.
optimising_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 1})


def compile_quickly() -> None:
    """Sets XLA's flags for this process and those that it starts.

    It acts only before the first computation, which is when JAX reads them.
    """
    given = os.environ.get("XLA_FLAGS", "").split()
    missing = [flag for flag in _FLAGS if flag not in given]
    if missing:
        os.environ["XLA_FLAGS"] = " ".join([*_known(missing), *given])


def share_compiled():
    """Keeps what is compiled for the other test processes; returns what deletes it at the end."""
    folder = tempfile.TemporaryDirectory()
    settings = {
        "jax_compilation_cache_dir": folder.name,
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)
    return folder.cleanup


def _known(flags: list[str]) -> list[str]:
    """Those of the flags that this version of XLA has; it ends the process at any other."""
    environment = {**os.environ, "XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"}
    found = subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"],
        env=environment,
        capture_output=True,
        text=True,
    )
    unknown = re.search(r"Unknown flags? in XLA_FLAGS: (.*)", found.stderr)
    if unknown is None:
        return flags if found.returncode == 0 else []
    return [flag for flag in flags if flag not in unknown[1].split()]
