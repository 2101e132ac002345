"""What a frozen build starts: PyInstaller runs a file, not a package."""

import os
import sys

# PyInstaller's start program has the linker look into our folder first and keeps what was set
# before. This process has read it; llama-server, pip and a browser must not load our libraries.
before = os.environ.pop("LD_LIBRARY_PATH_ORIG", None)
if before:
    os.environ["LD_LIBRARY_PATH"] = before
else:
    os.environ.pop("LD_LIBRARY_PATH", None)

from tray_app.__main__ import main  # noqa: E402 - what it imports may start programs

sys.exit(main())
