"""`python -m sinkserve.cli`."""

from sinkserve.cli import main

if __name__ == "__main__":
    main()
