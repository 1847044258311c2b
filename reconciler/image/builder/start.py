"""Starts the fork server: ``python -I -S start.py DIRECTORY… FD``, with the directories where its modules are.

Run by ``process``. It loads ``site`` only where the directories are not all that is needed. No state.
"""

import gc
import os
import sys


def main() -> int:
    """Serve until the other end of the socket FD is closed."""
    gc.disable()  # modules are no garbage
    sys.path += sys.argv[1:-1]
    try:
        from reconciler.image.builder import child
    except ModuleNotFoundError:  # they are where a .pth file or sitecustomize has them
        import site

        site.main()
        from reconciler.image.builder import child
    return child.main(sys.argv[-2:])


if __name__ == "__main__":
    os._exit(main())  # nothing is left to be cleared up
