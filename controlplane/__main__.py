"""`python -m controlplane` is `pylot`."""

from controlplane.cli.main import main

if __name__ == "__main__":
    main()
