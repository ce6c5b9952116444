"""`python -m siredon` is the same as `siredon`."""

from siredon.cli.app import main

if __name__ == "__main__":
    main()
