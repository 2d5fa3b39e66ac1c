"""What all tests share."""

import os

# Child processes must import the installed package: the checkout's own folder, which lacks `trcompress.cli`, would
# come first on their path if they were started with `-m` inside it.
os.environ["PYTHONSAFEPATH"] = "1"
