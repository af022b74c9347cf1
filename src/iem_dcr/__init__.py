"""Driver, simulator and tools for the Isabellenhuette IEM-DCR.

The package itself imports nothing: an EVerest module loads only what it uses.
"""

__version__ = "0.2.0"
