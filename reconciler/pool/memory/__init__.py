"""A pool in memory, for simulations and tests: the real driver's interface, without a kernel, files, threads or a clock.

``Storage`` is the disk: it survives a crash of the process and, with ``reboot``, of the host. ``MemoryPool`` is one process's
driver over it; create another one over the same storage to simulate the next process. The same calls give the same result.

    storage = Storage(total=1 << 40)
    pool = MemoryPool("default", storage)
    pool.assemble()
    with pool.create_volume("a" * 64, 8 << 30, None) as volume:
        volume.write(0, b"content")                      # or os.pwrite(volume.fd, …): a descriptor, created on first use
        identity = volume.seal()
    pool.create_snapshot("web-0", "a" * 64)
    storage.write("web-0", 4096, b"written by the guest")

Faults of the disk are state of the storage: ``total`` (a full pool), ``read_only``, ``unreadable``, ``needs_repair``, ``held``
(who holds a snapshot), ``occupied`` (foreign mappings), ``lose``, ``damage``, ``add_foreign``, ``reboot``, ``swap``.
Faults of a call are scripted with ``Faults``. A call passes through named steps (``Step``); at each, a fault can act:

    faults = Faults()
    pool = MemoryPool("default", storage, hook=faults)
    faults.add(Fault("create_snapshot", act=fail(PoolUnusable("EIO"))))                 # an error, once
    faults.add(Fault("observe", times=0, act=hang(event)))                              # hangs until event.set(), every time
    faults.add(Fault("seal", act=delay(clock.sleep, 30.0)))                             # takes 30 s of the simulation's clock
    faults.add(Fault("create_snapshot", "web-1", point="created", act=crash))           # dies between two steps

``crash`` raises ``Crash``, which is no ``Exception``: drop the driver and create the next one. ``hang`` calls the event's
``wait``: give it an object whose ``wait`` suspends a simulated task, or a ``threading.Event`` if calls run in threads.

State in memory: all of it. ``tests/pool/contract.py`` holds this driver to the behaviour of the real ones.
"""

from reconciler.pool.memory.driver import MemoryPool
from reconciler.pool.memory.faults import Crash, Fault, Faults, Step, crash, delay, fail, hang
from reconciler.pool.memory.storage import Storage
from reconciler.pool.memory.volume import MemoryVolume

__all__ = ["Crash", "Fault", "Faults", "MemoryPool", "MemoryVolume", "Step", "Storage", "crash", "delay", "fail", "hang"]
