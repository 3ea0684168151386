"""``python -m dropzone``, the same as the command ``dropzone``."""

from dropzone.cli import main

if __name__ == "__main__":
    main()
