"""How fast it is: beside programs that do the same work, part by part, and where there is very much of something.

    __main__        `make bench`: the rows of ``rows`` by turns with their peers (``contest``, ``contestants``, ``peers``)
    rows            a module for each group of rows
    report, plots   what docs/benchmarks.md shows of a result; ``results`` has the one that is kept
    inputs, stages  what is unpacked, made once in ``.benchmarks/inputs``
    suites          `make bench-suites`: pytest-benchmark, the parts of a build and the throughput of devices
    thin_*          `make bench-thin`: thin pools, here or in User-Mode Linux (``thin_ground``)

Programs for one question each: ``claims``, ``control``, ``directories``, ``manifests_scale``, ``registry``.
``measure`` has wall time, CPU and memory of a command, ``machine`` what a result names of hardware and versions,
``ground`` a file pool for whole runs.
"""
