"""A JupyterLab of our own and how to start a browser that may talk to this machine alone."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LOOPBACK = ("127.0.0.1", "localhost")
# Whatever is not on this machine goes to a proxy that is not there. (Playwright's own routes answer only while a
# playwright call runs: waiting for the kernel in Python would hold up the page.)
ALONE = ["--proxy-server=http://127.0.0.1:9", f"--proxy-bypass-list={';'.join(LOOPBACK)}"]


def launch_options() -> dict[str, Any]:
    """How playwright shall start Chromium: the system's where there is one, else its own."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    args = ["--no-sandbox", "--disable-dev-shm-usage", *ALONE]
    return {"args": args} | ({"executable_path": found} if found else {})


@dataclass(frozen=True)
class Lab:
    """A running server: JupyterLab and Notebook 7 over one folder."""

    url: str
    root: Path
    runtime: Path


@contextmanager
def serving(home: Path) -> Iterator[Lab]:
    """JupyterLab on a free loopback port, all of its folders in ``home``."""
    root, runtime = home / "notebooks", home / "runtime"
    root.mkdir()
    notes = home / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    notes.parent.mkdir(parents=True)
    notes.write_text('{"fetchNews": "false", "checkForUpdates": false, "doNotDisturbMode": true}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = {f"JUPYTER_{name}": str(home / name.split("_")[0].lower()) for name in ("CONFIG_DIR", "DATA_DIR")}
    environment = os.environ | folders | {"JUPYTER_RUNTIME_DIR": str(runtime), "OMP_NUM_THREADS": "1"}
    environment |= {"JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(home / "work")}
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--ip=127.0.0.1", "--allow-root",
        f"--ServerApp.root_dir={root}", "--IdentityProvider.token=", "--ServerApp.port_retries=0",
        "--LabApp.expose_app_in_browser=True", "--JupyterNotebookApp.expose_app_in_browser=True", "--LabApp.news_url=",
        "--LabApp.extension_manager=readonly", "--ServerApp.disable_check_xsrf=True",
    ]  # fmt: skip
    log = open(home / "lab.log", "w")  # noqa: SIM115 the server writes to it until the end
    server = subprocess.Popen(command, env=environment, cwd=Path.cwd(), stdout=log, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert server.poll() is None, (home / "lab.log").read_text()
            try:
                urllib.request.urlopen(f"{url}/api/status", timeout=2).close()
                break
            except OSError:
                time.sleep(0.25)
        else:
            raise AssertionError("JupyterLab did not start within a minute\n" + (home / "lab.log").read_text())
        yield Lab(url, root, runtime)
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
        log.close()
