"""`invcap train` as a script: python python/train.py --data shapes --output runs/shapes"""

import sys

from invcap.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()
