"""Helpers of the differential tests, which share no code with the package under test.

``trees`` holds the members of layers as values and generates them, ``layers`` writes them as tars in each dialect and reads tars
through the standard library, ``reference`` computes the result of a chain of layers, ``ext4`` reads images,
``compare`` describes directories and images in the same words and compares them, ``images`` builds and mounts.
"""
