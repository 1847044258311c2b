"""What the differential tests stand on, and what shares no code with the package under test.

``trees`` holds the members of layers as values and generates them, ``layers`` writes them as tars in each dialect and reads tars
through the standard library, ``reference`` says what a chain of layers must look like, ``ext4`` reads images,
``compare`` describes directories and images in the same words and tells differences, ``images`` builds and mounts.
"""
