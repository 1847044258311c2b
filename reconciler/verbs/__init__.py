"""The verbs of the command line, by what they are for; ``cli`` puts them together.

Each verb builds its objects and calls one core function. Everything heavy is imported by the verb that needs it, so that
``--help`` and completion answer at once. No state.
"""
