"""The command ``iem-dcr``, with a module for each subcommand. A module is imported when its subcommand is called.

The command needs the extra ``tools`` (click and rich).
"""
