"""EVerest's manager starts this file; everything else is in the package iem_dcr."""

import sys

try:
    from iem_dcr.everest.module import main
except ModuleNotFoundError as error:
    what = (
        "EVerest's manager sets PYTHONPATH to PREFIX/lib/everest/everestpy; by hand, set it too."
        if (error.name or "").startswith("everest")
        else "The package iem_dcr and what it needs have to be in the .venv beside this file, or installed for the "
        "python3 that EVerest starts: iem-dcr everest install PREFIX does that."
    )
    sys.exit(f"IsabellenhuetteIemDcr: {error}. {what}")

if __name__ == "__main__":
    main()
