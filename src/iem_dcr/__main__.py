"""The command ``iem-dcr``, which is also ``python -m iem_dcr``."""

import sys

try:
    from iem_dcr import __version__
    from iem_dcr.cli.exit_codes import EXIT_INTERRUPTED, EXIT_USAGE
    from iem_dcr.cli.startup import exit_on_ctrl_c, missing_package
except KeyboardInterrupt:  # it is not answered by exit_on_ctrl_c yet
    sys.exit(130)


def main() -> None:
    """Run the command line and exit with its status."""
    exit_on_ctrl_c()
    try:
        from iem_dcr.cli.main import main as run  # noqa: PLC0415  only now Ctrl-C may come at any instant

        run()
    except KeyboardInterrupt:  # once more, while the first one is answered
        sys.exit(EXIT_INTERRUPTED)
    except ModuleNotFoundError as error:
        message = missing_package(error)
        if message is None:
            raise
        if sys.argv[1:] == ["--version"]:
            sys.stdout.write(f"iem-dcr {__version__}\n")
            sys.exit(0)
        sys.stderr.write(f"{message}\n")
        sys.exit(EXIT_USAGE)
    finally:
        exit_on_ctrl_c()


if __name__ == "__main__":
    main()
