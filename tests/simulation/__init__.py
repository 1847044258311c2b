"""Simulated hosts: the real planner, scheduler, engine, service and registry, over pools, sources, threads and a clock in memory.

One seed decides everything in a world: what the manifests declare and when they change, faults (hang, error, slow, odd, wrong) of
sources and pools, kills of the process, reboots, drift, marks that a second process writes, and the order in which threads run.
Time is virtual and passes only while every thread waits: an hour of a service takes less than a second. The same seed gives the
same world.

    python -m tests.simulation --worlds 100 --seed 1          # 100 worlds; prints the seed of each violation, and the coverage
    python -m tests.simulation --worlds 1 --seed 4711 -v      # that world again, with its events
    python -m tests.simulation --worlds 1 --hours 24          # a day

``threads`` runs all threads one at a time, ``sources`` and ``reconciler.pool.memory`` are what can fail, ``process`` is one
process of reconcile, ``world`` is the host with its script, ``checks`` are the invariants by name. ``planted`` has
faults that the simulation has to find. State in memory, but for the registry: an SQLite file in a temporary directory.
"""
