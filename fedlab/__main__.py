"""`python -m fedlab`: the command `fedlab`."""

import sys

from fedlab_command import main

if __name__ == "__main__":
    sys.exit(main())
