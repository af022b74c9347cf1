"""EVerest's manager starts this file. Everything else is in the package iem_dcr."""

import signal
import sys

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""They end the module. SIGHUP comes when the terminal in which EVerest's manager runs is closed."""

# Blocked in every thread from here on. One thread accepts them, also those that come during the imports.
signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

try:
    from iem_dcr.everest.framework import Framework
    from iem_dcr.everest.module import main
except ImportError as error:
    first: BaseException = error
    while isinstance(first.__context__, ImportError):  # everestpy's second try hides the first error
        first = first.__context__
    advice = ""
    if isinstance(first, ModuleNotFoundError):
        advice = (
            ". EVerest's manager sets PYTHONPATH to PREFIX/lib/everest/everestpy. To start it by hand, set it too."
            if (first.name or "").startswith("everest")
            else ". The package iem_dcr and its requirements have to be in the .venv beside this file, or installed "
            "for the python3 that EVerest starts: iem-dcr everest install PREFIX does that."
        )
    sys.exit(f"IsabellenhuetteIemDcr: {first}{advice}")

if __name__ == "__main__":
    main(Framework, SIGNALS)
