"""EVerest's manager starts this file; everything else is in the package iem_dcr."""

import signal
import sys

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""They end the module. SIGHUP comes from a terminal that closes, where EVerest's manager runs in one."""

# Blocked in every thread from here on: one thread takes them, also those that come during the imports.
signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

try:
    from iem_dcr.everest.framework import Framework
    from iem_dcr.everest.module import main
except ImportError as error:
    first: BaseException = error
    while isinstance(first.__context__, ImportError):  # everestpy tries a second way, which hides why the first failed
        first = first.__context__
    advice = ""
    if isinstance(first, ModuleNotFoundError):
        advice = (
            ". EVerest's manager sets PYTHONPATH to PREFIX/lib/everest/everestpy; by hand, set it too."
            if (first.name or "").startswith("everest")
            else ". The package iem_dcr and what it needs have to be in the .venv beside this file, or installed for "
            "the python3 that EVerest starts: iem-dcr everest install PREFIX does that."
        )
    sys.exit(f"IsabellenhuetteIemDcr: {first}{advice}")

if __name__ == "__main__":
    main(Framework, SIGNALS)
