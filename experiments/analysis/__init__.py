"""What rows of results mean: metrics, summaries, paired differences, tests of significance, claims."""
