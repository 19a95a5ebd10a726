"""``python -m ong`` is the command line."""

from ong.cli import main

if __name__ == "__main__":
    main()
