"""Writes what README takes from the code: the state diagram, and what `dropzone demo` really prints (`make docs`)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from dropzone.drop import diagram

README = Path(__file__).parent.parent / "README.md"
_CUT = "   …\n"


def transcript() -> str:
    """What the demonstration prints, in /tmp/demo as it were; the folders, a log and repetitions are cut."""
    done = subprocess.run([sys.executable, "-m", "dropzone", "demo"], capture_output=True, text=True, check=True)
    text = re.sub(r"/tmp/dropzone-demo-\w+", "/tmp/demo", done.stdout)  # noqa: S108
    text = re.sub(r"(?:.*: taken over from the inbox of .*\n)+", _CUT, text)  # they say what stands above
    folders, end = text.index("\nThe folders:"), text.index("\nEvery file ended")
    return text[:folders].lstrip("\n") + "\n" + _CUT + text[end:]


def main() -> None:
    """Rewrite the blocks in README."""
    readme = README.read_text()
    blocks = {"mermaid": diagram(), "text": transcript()}
    for kind, content in blocks.items():
        before, start, rest = readme.partition(f"```{kind}\n")
        readme = before + start + content + rest[rest.index("```") :]
    README.write_text(readme)


if __name__ == "__main__":
    main()
