"""The sandbox as a process of its own, spoken to over its control paths: for tests whose own process dies or forks."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import threading
from typing import Any, Self
from urllib.parse import urlsplit


class Server:
    """One sandbox process; `reset` between tests."""

    def __init__(self, key: str) -> None:
        command = [sys.executable, "-m", "dropzone", "sandbox", "--port", "0", "--key", key]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        found = re.search(r"https?://[\d.:]+\d", self._process.stdout.readline())
        assert found
        self.url = found[0]
        # It says a line for each request: a pipe that nobody empties would stop it after some hundred of them.
        self._drain = threading.Thread(target=self._process.stdout.read)
        self._drain.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._drain.join()
        assert self._process.stdout
        self._process.stdout.close()

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """The JSON answer to one request."""
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        try:
            text = json.dumps(body) if body is not None else None
            connection.request(method, path, text, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status < 300, content
            return json.loads(content) if content else None
        finally:
            connection.close()

    def reset(self, *faults: dict[str, object]) -> None:
        """Forget everything, and ask for these faults."""
        self.ask("DELETE", "/sandbox/state")
        self.ask("DELETE", "/sandbox/faults")
        if faults:
            self.ask("POST", "/sandbox/faults", list(faults))

    def imports(self) -> list[dict[str, Any]]:
        """The imports in the order of arrival."""
        return list(self.ask("GET", "/sandbox/state")["imports"])

    def applied(self) -> list[str]:
        """The file names of the imports that took place, in order."""
        return [each["filename"] for each in self.imports() if each["applied"]]
