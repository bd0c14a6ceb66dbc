"""Human-activity data sets."""
