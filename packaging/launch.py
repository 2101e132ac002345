"""What a frozen build starts: PyInstaller runs a file, not a package."""

import sys

from tray_app.__main__ import main

sys.exit(main())
