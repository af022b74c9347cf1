"""The command ``iem-dcr``: a simulated meter, one reading, a charging session by hand, a demonstration.

It needs the extra ``tools`` (click and rich). Each command is a module of its own and is imported when it is called.
"""
