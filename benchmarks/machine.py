"""What a result has to name for its numbers to mean anything: the hardware, the kernel, the programs, the commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import peers

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("isal", "zstandard", "google-crc32c", "pydantic", "sqlmodel", "boto3", "moto")


def described(directory: Path) -> dict[str, Any]:
    """``directory`` is where the targets lie."""
    return {
        "commit": commit(),
        "cpu": processor(),
        "cores": os.cpu_count(),
        "memoryBytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "system": field("/etc/os-release", "PRETTY_NAME", "=").strip('"'),
        "targets": file_system(directory),
        "root": os.geteuid() == 0,
        "load": os.getloadavg()[0],
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {name: installed(name) for name in PACKAGES},
        "programs": {name: peers.version(name) for name in peers.PEERS if not peers.missing(name)},
        "missing": {name: reason for name in peers.PEERS if (reason := peers.missing(name))},
    }


def commit() -> str:
    git = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT)]
    found = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "status", "--porcelain", "-uno", "reconciler"], capture_output=True, text=True, check=False)
    return found.stdout.strip()[:12] + (" with changes" if changed.stdout else "") if found.returncode == 0 else "unknown"


def processor() -> str:
    return field("/proc/cpuinfo", "model name", ":") or platform.machine()


def field(path: str, name: str, separator: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(separator)[2].strip() for line in lines if line.partition(separator)[0].strip() == name), "")


def file_system(directory: Path) -> str:
    command = ["stat", "--file-system", "--format=%T", str(directory)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
