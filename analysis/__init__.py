"""Reports, landscapes and the study: reads records, and trains nothing."""

import os

os.environ["MPLBACKEND"] = "agg"  # notebooks set one that is not there; read by matplotlib's import
