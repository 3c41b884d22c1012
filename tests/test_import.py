"""What importing the package does, and does not do."""

import subprocess
import sys

#: Prints the number of devices; a device that is set up at import could not be set up again.
PROGRAM = """
import numpyro_sumo, numpyro, jax
numpyro.set_host_device_count(3)
print(len(jax.devices("cpu")))
"""


def test_import_leaves_devices_to_be_set_up():
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert found.stdout.split() == ["3"], found.stderr
