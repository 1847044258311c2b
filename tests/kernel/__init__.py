"""What only a kernel with device-mapper can say. The tests are plain: they assume root and device-mapper, and leave nothing.

``conftest`` has them run in User-Mode Linux (``tests/support/tier.py``), or with ``--kernel=here`` on this machine's own kernel.
"""
