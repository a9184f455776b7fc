"""The package in booted Debians, by packaging/test-install; and what its program holds twice is the same twice."""

from __future__ import annotations

import runpy
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.install.inside import newcomer, pods

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.skipif(not (CHECKOUT / ".git").exists(), reason="the package is built from a commit, here is no git")
@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_the_package_lives_in_a_booted_debian(suite: str) -> None:
    command = [CHECKOUT / "packaging" / "test-install", "--suite", suite]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_guestbook_is_the_demonstrations() -> None:
    demo = runpy.run_path(str(CHECKOUT / "packaging" / "demo.py"), run_name="demo")
    manifests = yaml.safe_load_all((demo["EXAMPLES"] / "guestbook" / "10-pods.yaml").read_text())
    found = {each["metadata"]["name"]: each["status"]["podIP"] for each in manifests}
    assert {pod.name: pod.addresses[0] for pod in pods.GUESTBOOK} == found
    assert pods.expected(pods.MATRIX) == demo["STEPS"][-1].expected()


def test_the_readme_has_commands_to_install_netpold() -> None:
    assert newcomer.blocks((CHECKOUT / "README.md").read_text())
