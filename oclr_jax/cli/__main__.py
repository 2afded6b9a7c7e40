"""`python -m oclr_jax.cli`."""

import sys

from oclr_jax.cli import main

sys.exit(main())
