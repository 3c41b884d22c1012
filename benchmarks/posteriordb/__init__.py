"""The posteriordb benchmark: posteriors that nobody tuned for, against their reference draws."""
