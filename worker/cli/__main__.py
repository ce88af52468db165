"""`python -m worker.cli`: the command line, where the script `post-purchase` is not on the path."""

from . import main

if __name__ == "__main__":
    main()
