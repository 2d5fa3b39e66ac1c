"""What every part may use: files, threads, clocks, progress. Nothing here knows of networks."""
